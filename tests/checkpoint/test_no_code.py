"""Python files of a model folder are run by nothing that was not told to trust them; the file would leave a mark."""

import json

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import layersmith
from layersmith import pocket
from layersmith.checkpoint import export_stock, load, save
from layersmith.checkpoint.verify import compare_reloaded
from layersmith.cli import app
from layersmith.errors import UserError
from tests.anatomy.families import BY_NAME
from tests.checkpoint.edited import edited, output

LLAMA = BY_NAME["llama"].inputs()
GLU16 = {"name": "glu", "d_hidden": 16}


def trap(folder, *names):
    """Make the folder's configs point at a Python file that leaves a mark when it is run; returns where."""
    mark = folder / "mark"
    text = f"open({str(mark)!r}, 'w')\nfrom transformers import LlamaConfig as C, LlamaForCausalLM as M\n"
    for name in ("trap", "modeling_layersmith"):
        (folder / f"{name}.py").write_text(text)
    maps = {"AutoConfig": "trap.C", "AutoModel": "trap.M", "AutoModelForCausalLM": "trap.M"}
    added = {
        "config.json": maps,
        "tokenizer_config.json": {"AutoTokenizer": ["trap.C", "trap.C"]},
        "preprocessor_config.json": {"AutoImageProcessor": "trap.C"},
    }
    for name in names or added:
        file = folder / name
        content = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**content, "auto_map": added[name]}))
    return mark


@pytest.fixture
def trapped(tmp_path):
    folder = tmp_path / "stranger"
    BY_NAME["llama"].model().save_pretrained(folder)
    return folder, trap(folder)


def code_in(folder):
    named = [file.name for file in folder.rglob("*.json") if b"auto_map" in file.read_bytes()]
    return sorted(named + [file.name for file in folder.rglob("*.py")])


def test_load_save_and_reload(trapped, tmp_path):
    folder, mark = trapped
    (folder / "tokenizer_config.json").unlink()
    model, _ = load(folder)
    assert export_stock(model, model, [], tmp_path / "stock") == ""
    save(model, [], tmp_path / "ours")
    assert code_in(tmp_path / "stock") == []
    assert (tmp_path / "stock" / "preprocessor_config.json").is_file()  # kept, without its pointer
    assert code_in(tmp_path / "ours") == ["config.json", "modeling_layersmith.py"]
    assert "trap" not in (tmp_path / "ours" / "config.json").read_text()
    # What is put into the saved folders afterwards is not run by the proof either.
    marks = [trap(tmp_path / name, "config.json") for name in ("stock", "ours")]
    found = compare_reloaded([tmp_path / "stock", tmp_path / "ours"], model, LLAMA, trust_remote_code=True)
    assert [(each.difference, each.problem) for each in found] == [(0.0, "")] * 2
    load(tmp_path / "ours", trust_remote_code=True)  # our checkpoints are opened by the installed package alone
    tf.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", trust_remote_code=True)
    assert not any(path.exists() for path in (mark, *marks))


@pytest.mark.parametrize("command", ["refit", "measure", "sites", "explain"])
def test_commands(command, tmp_path):
    folder = tmp_path / "stranger"
    _, tokenizer = load("pocket")
    small = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = tf.LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **small)
    tf.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    mark = trap(folder, "config.json", "tokenizer_config.json")
    options = {
        "refit": ["--budget", "params=0.96", "--out", str(tmp_path / "out"), "--methods", "drop", "--effort", "0.01"],
        "measure": ["--windows", "1", "--rounds", "1", "--at", "prefill=1x16"],
        "sites": ["--rounds", "1", "--at", "prefill=1x16"],
        "explain": ["--out", str(tmp_path / "out"), "--tokens", "512", "--quiet"],
    }
    more = ["--heal-tokens", "0", "--at", "prefill=1x16", "--quiet"] if command == "refit" else []
    done = CliRunner().invoke(app, [command, str(folder), *options[command], *more])
    assert done.exit_code == 0, done.output
    assert not mark.exists()
    if command == "refit":
        assert "trap" not in (tmp_path / "out" / "model" / "config.json").read_text()
        assert not (tmp_path / "out" / "model" / "trap.py").exists()


STRANGER = """
from transformers import LlamaConfig, LlamaForCausalLM

class StrangerConfig(LlamaConfig):
    model_type = "stranger"

class StrangerForCausalLM(LlamaForCausalLM):
    config_class = StrangerConfig
"""


def test_a_trusted_model_with_a_class_of_its_own_is_refused_before_any_work(tmp_path, monkeypatch):
    """No result of it could be loaded without its code, which is never saved; that is said in the first minute."""
    monkeypatch.setattr(tf.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder, out = tmp_path / "model", tmp_path / "out"
    _, tokenizer = load("pocket")
    small = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    tf.LlamaForCausalLM(tf.LlamaConfig(vocab_size=len(tokenizer), **small)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "stranger.py").write_text(STRANGER)
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "stranger.StrangerConfig", "AutoModelForCausalLM": "stranger.StrangerForCausalLM"}
    config |= {"model_type": "stranger", "architectures": ["StrangerForCausalLM"], "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config))
    options = {"budget": {"params": 0.96}, "out": out, "at": "prefill=1x16", "effort": 0.01, "progress": False}
    with pytest.raises(UserError, match="brings its own Python code"):
        layersmith.refit(str(folder), **options)
    with pytest.raises(UserError, match=r"Nothing was started.*StrangerForCausalLM.*code is never put into a saved"):
        layersmith.refit(str(folder), trust_remote_code=True, **options)
    assert not (out / "workspace" / "library").exists()


@pytest.mark.parametrize(
    "name", ["../other.safetensors", "/etc/hosts", "sub/x.safetensors", "x.bin", "..\\x.safetensors", 3, ""]
)
def test_an_index_names_files_of_its_own_folder_only(name, tmp_path):
    folder = tmp_path / "model"
    BY_NAME["llama"].model().save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for place in (tmp_path / "other.safetensors", folder / "x.safetensors"):
        save_file(tensors, place, {"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"own folder|damaged"):
        load(folder)


def test_a_config_does_not_name_weights_or_kernels_elsewhere(tmp_path):
    BY_NAME["llama"].model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key, value in (("transformers_weights", "../x.safetensors"), ("attn_implementation", "owner/kernel")):
        (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(UserError, match=key):
            load(tmp_path)


def many(config):
    config["edits"] *= 1000


HUGE = [
    many,
    lambda c: c["edits"][0]["spec"].update(d_hidden=10**9),
    lambda c: c["edits"][0]["spec"].update(d_hidden=60_000),
    lambda c: c["edits"][0].update(spec={"name": "deep_mlp", "d_model": 32, "d_hidden": 8, "depth": 10**9}),
    lambda c: c["edits"][0]["spec"].update(d_model=60_000),
    lambda c: c["base_config"].update(hidden_size=10**9),
    lambda c: c["base_config"].update(num_hidden_layers=10**9),
    lambda c: c["base_config"].update(num_hidden_layers=60_000),
    lambda c: c["base_config"].update(vocab_size=10**9),
    lambda c: c.update(shared=[["model.layers.1", "model.layers.0"]] * 10**5),
]


@pytest.mark.parametrize("change", HUGE)
def test_sizes_of_our_config_are_bounded_by_what_is_stored(change, tmp_path):
    """Refused before anything of that size is built, whichever door is taken."""
    _, model, edits = edited(ffn=GLU16)
    save(model, edits, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError):
        load(tmp_path)
    if config["base_config"]["num_hidden_layers"] < 10**9:  # transformers makes a list of that length in any config
        with pytest.raises((UserError, RuntimeError)):  # of transformers, for shapes that do not fit
            tf.AutoModelForCausalLM.from_pretrained(tmp_path)


def test_a_number_that_builds_nothing_may_be_larger_than_any_dimension(tmp_path):
    """Positions are turned by a base of 500,000 in Llama 3, whose largest dimension is its vocabulary of 128,256."""
    spec = {"name": "softmax_attention", "d_model": 32, "n_heads": 4, "rope_theta": 10**6, "window": 10**5}
    _, model, edits = edited(layers_0_attn=spec)
    save(model, edits, tmp_path)
    again, _ = load(tmp_path)
    inputs = BY_NAME["llama"].inputs()
    assert torch.equal(output(again, inputs), output(model, inputs))


def test_parts_smaller_than_what_they_replace_pass(tmp_path):
    """The bound is on what is built, not on the stock model, which may be much larger than the result."""
    _, model, edits = edited(layers_0_ffn={"name": "zero"}, layers_1={"name": "identity"})
    save(model, edits, tmp_path)
    assert torch.equal(output(load(tmp_path)[0], LLAMA), output(model, LLAMA))


def test_pocket_is_a_folder_like_any_other():
    assert code_in(pocket.path()) in ([], ["__init__.py"])


@pytest.mark.parametrize("theta", [1_000_000, 500_000.0, 10_000_000])
def test_the_base_of_rotary_positions_is_no_size(theta, tmp_path):
    """Llama 3, Qwen and LFM2 have such: a result with another attention was refused when it was loaded again."""
    _, model, edits = edited(layers_1_attn={"name": "softmax_attention", "n_heads": 4, "rope_theta": theta})
    save(model, edits, tmp_path)
    assert torch.equal(output(load(tmp_path)[0], LLAMA), output(model, LLAMA))
