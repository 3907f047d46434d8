"""A folder with anything wrong in it is refused in one paragraph, or is the model it was: never a third thing."""

import copy
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from layersmith.checkpoint import load, save
from layersmith.errors import UserError
from tests.anatomy.families import BY_NAME
from tests.checkpoint.edited import edited, output

LLAMA = BY_NAME["llama"].inputs()
WRONG = [None, "x", -1, 10**9, 10**30, 1.5, [], {}, True]
#: Config keys whose every wrong value must be noticed or be without effect.
KEYS = ["model_type", "architectures", "hidden_size", "num_hidden_layers", "vocab_size", "num_labels", "layer_types"]
WAYS = {
    "emptied": lambda whole: b"",
    "cut in half": lambda whole: whole[: len(whole) // 2],
    "cut by a byte": lambda whole: whole[:-1],
    "first bit flipped": lambda whole: bytes([whole[0] ^ 1]) + whole[1:],
    "a bit of the middle of the start flipped": lambda whole: whole[:40] + bytes([whole[40] ^ 16]) + whole[41:],
    "a huge header": lambda whole: (2**62).to_bytes(8, "little") + whole[8:],
    "zeros": lambda whole: bytes(len(whole)),
    "a list": lambda whole: b"[1, 2]",
    "a number": lambda whole: b"7",
    "an empty object": lambda whole: b"{}",
    "other text": lambda whole: "{ä".encode("latin-1"),
    "deep": lambda whole: b"[" * 100_000,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{kind: (folder, logits)}: a stock model in two files with pocket's tokenizer, and one of ours."""
    root = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    model = BY_NAME["llama"].model()
    model.save_pretrained(root / "stock", max_shard_size="40kB")
    load("pocket")[1].save_pretrained(root / "stock")
    _, changed, edits = edited(ffn={"name": "glu", "d_hidden": 16})
    save(changed, edits, root / "ours")
    return {kind: (root / kind, output(load(root / kind)[0], LLAMA)) for kind in ("stock", "ours")}


def outcome(folder, expected):
    """ "refused" or "same"; anything else is an error of the test."""
    try:
        model, _ = load(folder)
    except UserError as error:
        return "refused" if "\n" not in str(error) else "more than a paragraph"
    assert torch.equal(output(model, LLAMA), expected), "other weights, silently"
    return "same"


@pytest.mark.parametrize("kind", ["stock", "ours"])
def test_each_file_damaged_in_every_way(kind, folders, tmp_path):
    whole, expected = folders[kind]
    outcomes = {}
    names = sorted(file.name for file in whole.iterdir() if file.suffix != ".py")
    shards = [name for name in names if name.endswith(".safetensors")][1:]  # one is enough
    for name in (n for n in names if n not in shards):
        for way, damage in WAYS.items():
            folder = tmp_path / "damaged"
            shutil.copytree(whole, folder)
            (folder / name).write_bytes(damage((whole / name).read_bytes()))
            outcomes[name, way] = outcome(folder, expected)
            shutil.rmtree(folder)
    for (name, way), found in outcomes.items():
        # The last byte of a JSON file ends its line; a flipped bit may lie in a name that nothing reads.
        slight = name.endswith(".json") and way in ("cut by a byte", "a bit of the middle of the start flipped")
        optional = way == "an empty object" and name in ("generation_config.json", "tokenizer_config.json")
        assert found == "refused" or slight or optional, (name, way)


@pytest.mark.parametrize("key", KEYS)
def test_config_values_of_every_wrong_kind(key, folders, tmp_path):
    whole, expected = folders["stock"]
    folder = tmp_path / "damaged"
    shutil.copytree(whole, folder)
    config = json.loads((whole / "config.json").read_text())
    for value in WRONG:
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        found = outcome(folder, expected)
        assert found == "refused" or key in ("num_labels", "layer_types", "architectures"), value


@pytest.fixture
def small(tmp_path):
    BY_NAME["llama"].model().save_pretrained(tmp_path)
    return tmp_path


def rewritten(folder, change):
    tensors = copy.deepcopy(load_file(folder / "model.safetensors"))
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def renamed(tensors):
    tensors["model.layers.0.mlp.other.weight"] = tensors.pop("model.layers.0.mlp.up_proj.weight")


def reshaped(tensors):
    tensors["model.norm.weight"] = torch.ones(7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), r"1 of its tensors.*model\.norm\.weight"),
        (lambda t: t.pop("lm_head.weight"), r"lm_head\.weight"),
        (renamed, r"layers\.0\.mlp\.up_proj\.weight"),
        (reshaped, "cannot be loaded"),
        (lambda t: t.clear(), "tensors"),
    ],
)
def test_missing_tensors_are_never_random(small, change, message):
    rewritten(small, change)
    with pytest.raises(UserError, match=message):
        load(small)


def test_tied_and_optional_tensors_may_be_missing(tmp_path):
    """By the library's own lists: T5's tied embeddings, and BERT's position ids."""
    for name in ("t5", "bert", "whisper"):
        BY_NAME[name].model().save_pretrained(tmp_path / name)
        load(tmp_path / name)


def test_unexpected_tensors_are_named_in_one_line(small):
    rewritten(small, lambda tensors: tensors.update({"classifier.weight": torch.ones(2, 32)}))
    told = []
    load(small, tell=told.append)
    assert len(told) == 1
    assert "1 tensors" in told[0]
    assert "classifier.weight" in told[0]
    with pytest.warns(UserWarning, match=r"classifier\.weight"):
        load(small)


QUANTIZED = {
    "compressed-tensors / pack-quantized": {"quant_method": "compressed-tensors", "format": "pack-quantized"},
    "sparse-24-bitmask": {
        "quant_method": "compressed-tensors",
        "format": "dense",
        "sparsity_config": {"format": "sparse-24-bitmask"},
    },
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "gptq": {"quant_method": "gptq", "bits": 4},
    "awq": {"quant_method": "awq", "bits": 4},
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "unnamed": {"bits": 4},
}


@pytest.mark.parametrize("form", QUANTIZED)
@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_quantized_folders_are_told_what_they_are(small, form, key):
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**config, key: QUANTIZED[form]}))
    with pytest.raises(UserError, match=form) as error:
        load(small)
    assert "damaged" not in str(error.value)
    assert "unquantized" in str(error.value)


def test_eight_bit_floats_without_a_word_in_the_config(small):
    rewritten(small, lambda t: t.update({"lm_head.weight": t["lm_head.weight"].to(torch.float8_e4m3fn)}))
    with pytest.raises(UserError, match=r"F8_E4M3.*unquantized"):
        load(small)


def test_adapters_are_not_left_out_silently(small, tmp_path):
    (small / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="merge_and_unload"):
        load(small)
    (small / "config.json").unlink()
    with pytest.raises(UserError, match="adapter without its base"):
        load(small)


def test_weights_that_are_a_pickle(small):
    torch.save({}, small / "pytorch_model.bin")
    (small / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors.*pytorch_model\.bin.*save it once"):
        load(small)


@pytest.mark.parametrize("kind", ["stock", "ours"])
def test_complex_numbers_are_not_made_real(folders, kind, tmp_path):
    """Their imaginary parts would be lost, and the model be another one."""
    folder = tmp_path / "damaged"
    shutil.copytree(folders[kind][0], folder)
    file = min(folder.glob("*.safetensors"))
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors[name] = torch.complex(tensors[name].float(), tensors[name].float())
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(UserError, match=rf"{re.escape(name)} as complex numbers"):
        load(folder)


def test_complex_tables_that_nothing_reads_are_only_named(small):
    rewritten(small, lambda t: t.update({"rotations": torch.ones(3, dtype=torch.complex64)}))
    with pytest.warns(UserWarning, match="rotations"):
        load(small)


def test_layers_that_no_cache_can_be_made_for(small):
    """The model runs without a cache, and would have failed when it writes."""
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**config, "layer_types": ["sliding_attention", "full_attention"]}))
    with pytest.raises(UserError, match="sliding_window"):
        load(small)


def test_what_transformers_does_not_save_is_one_paragraph(small, tmp_path):
    """Attention weights asked for in a config, beside attention that has none: it loads, and its config is refused."""
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**config, "output_attentions": True}))
    model, _ = load(small)
    with pytest.raises(UserError, match=r"LlamaForCausalLM cannot be saved: .*eager") as refused:
        save(model, [], tmp_path / "saved")
    assert "\n" not in str(refused.value)
