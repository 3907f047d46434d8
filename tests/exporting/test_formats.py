"""Each format holds the model it was given, edits included; tested where its library is installed."""

import json

import pytest
import torch

from layersmith.checkpoint import load
from layersmith.errors import UserError
from layersmith.exporting.pipeline import export
from layersmith.linear.half_precision import HalfPrecision
from tests.commands.conftest import run as run
from tests.exporting.models import bert, edited, llama, rounded
from tests.refitting.conftest import tiny_llama

QUICK = {"at": "prefill=1x8", "rounds": 2}
GRAPHS = ("onnx", "openvino")
ENDING = {"onnx": ".onnx", "openvino": ".xml", "gguf": ".gguf"}
LIBRARIES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "gguf": ("gguf",)}


@pytest.fixture(params=GRAPHS)
def to(request):
    needs(request.param)
    return request.param


def needs(to):
    for package in LIBRARIES[to]:
        pytest.importorskip(package)


@pytest.mark.parametrize("make", [llama, bert])
def test_a_stock_model(to, make, tmp_path):
    found = export(make(), to=to, out=tmp_path / f"a{ENDING[to]}", **QUICK)
    assert found.file.is_file()
    assert found["proved"]["max_abs_diff"] <= found["proved"]["bound"]
    assert min(found["divergence"]["of"].values()) < 1e-6
    assert set(found["timed"]) == {"model", *found["divergence"]["of"]}
    assert found["environment"]["threads"] == torch.get_num_threads()


def test_edits_of_every_family(to, tmp_path):
    parts = {
        "layers.0.ffn": {"name": "fused_glu", "d_hidden": 20},
        "layers.1.ffn": {"name": "mlp", "d_hidden": 12},
        "layers.0.attn": {"name": "fused_attention", "n_heads": 4, "n_kv_heads": 2, "rope_theta": 10000.0},
        "layers.1.attn": {"name": "softmax_attention", "n_heads": 2},
        "layers.1.ffn_norm": {"name": "dyt"},
    }
    model = edited(llama(), tmp_path / "model", parts)
    assert len(model.config.edits) == len(parts)
    found = export(model, to=to, out=tmp_path / "out", **QUICK)
    assert found["proved"]["max_abs_diff"] <= found["proved"]["bound"]
    assert json.loads((tmp_path / "out" / "layersmith.json").read_text())["to"] == to


def test_an_edit_that_cannot_be_expressed_is_named(to, tmp_path):
    parts = {"layers.0.ffn": {"name": "mlp", "d_hidden": 12}, "layers.1.ffn": {"name": "fff", "depth": 2}}
    model = edited(llama(), tmp_path / "model", parts)
    with pytest.raises(UserError, match=r"cannot express the edit 'fff' at model\.layers\.1\.mlp.*nearest.*'glu'"):
        export(model, to=to, out=tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


def test_a_mixer_that_cannot_be_expressed_is_named(to, tmp_path):
    model = edited(llama(), tmp_path / "model", {"layers.1.attn": {"name": "deltanet", "n_heads": 2}})
    with pytest.raises(UserError, match=r"'deltanet' at model\.layers\.1\.self_attn.*nearest.*'softmax_attention'"):
        export(model, to=to, out=tmp_path / "out", **QUICK)


def test_int8_stays_int8_in_onnx(tmp_path):
    needs("onnx")
    import onnx

    model, paths = rounded(llama(), tmp_path / "model")
    found = export(model, to="onnx", out=tmp_path / "a.onnx", **QUICK)
    graph = onnx.load(found.file).graph
    assert [node.op_type for node in graph.node].count("MatMulInteger") == len(paths) == len(found["int8"])
    stored = [each for each in graph.initializer if each.data_type == onnx.TensorProto.INT8]
    assert len(stored) == len(paths)
    assert found["floats"] == []
    assert found["divergence"]["of"].popitem()[1] < 1e-5


def test_what_cannot_be_int8_is_written_in_floats_when_asked(to, tmp_path):
    part = HalfPrecision
    model, paths = rounded(llama(), tmp_path / "model", part)
    found = export(model, to=to, out=tmp_path / "out", dequantize=True, **QUICK)
    assert found["floats"] == paths
    assert found["proved"]["max_abs_diff"] <= found["proved"]["bound"]


def test_the_command_prints_both_clocks_and_their_conditions(to, run, tmp_path):
    tiny_llama(layers=2).save_pretrained(tmp_path / "model")
    load("pocket")[1].save_pretrained(tmp_path / "model")
    arguments = ("--to", to, "--out", str(tmp_path / "out"), "--at", "prefill=1x16", "--rounds", "1")
    status, out, err = run("export", str(tmp_path / "model"), *arguments)
    assert status == 0, err
    for told in ("the model in torch", to.replace("onnx", "onnxruntime"), "bound", "threads", "held-out", "warning"):
        assert told in out or told in ("held-out",)
    assert (tmp_path / "out" / "tokenizer.json").is_file()


# -- GGUF ---------------------------------------------------------------------------------------------------------


def test_gguf_holds_pocket_in_its_dtype_and_with_its_tokens(tmp_path):
    needs("gguf")
    import gguf

    found = export("pocket", to="gguf", out=tmp_path / "pocket.gguf", **QUICK)
    assert found["proved"]["max_abs_diff"] < 1e-4
    assert any("token ids" in note for note in found["notes"])
    reader = gguf.GGUFReader(found.file)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] == "F16"
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    assert "output.weight" not in kinds, "head and embedding are one"
    again, tokenizer = load(found.file)
    original, own = load("pocket")
    text = "The quick brown fox, 1234 times"
    assert len(own) == len(tokenizer)
    ids = own(text, return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == text
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, original(ids).logits, rtol=1e-4, atol=1e-4)


def test_gguf_refuses_edits_and_other_architectures(tmp_path):
    needs("gguf")
    model = edited(llama(), tmp_path / "model", {"layers.1.ffn": {"name": "mlp", "d_hidden": 12}})
    with pytest.raises(UserError, match=r"'mlp' at model\.layers\.1\.mlp.*nearest.*stock"):
        export(model, to="gguf", out=tmp_path / "a.gguf")
    with pytest.raises(UserError, match="BertModel"):
        export(bert(), to="gguf", out=tmp_path / "a.gguf")
    with pytest.raises(UserError, match="tokenizer"):
        export(llama(), to="gguf", out=tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ({"type": "ByteLevel", "use_regex": True}, "gpt-2"),
        ({"type": "ByteLevel", "use_regex": False}, "default"),
        (
            {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {"type": "ByteLevel", "use_regex": True},
                ],
            },
            "smollm",
        ),
        (
            {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": False},
                    {"type": "ByteLevel", "use_regex": True},
                ],
            },
            "default",
        ),
    ],
)
def test_ways_of_splitting_are_told_apart(steps, name):
    needs("gguf")
    from types import SimpleNamespace

    from layersmith.exporting.targets.gguf import _splitting

    backend = SimpleNamespace(to_str=lambda: json.dumps({"pre_tokenizer": steps}))
    assert _splitting(SimpleNamespace(backend_tokenizer=backend)) == name


# -- real models --------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_minilm(to, minilm_path, tmp_path):
    found = export(str(minilm_path), to=to, out=tmp_path / "out", at="prefill=1x64", rounds=3)
    assert found["proved"]["max_abs_diff"] <= found["proved"]["bound"]
    assert min(found["divergence"]["of"].values()) < 1e-6


@pytest.mark.real
@pytest.mark.parametrize("form", ["onnx", "openvino", "gguf"])
def test_smollm2(form, smollm2_path, tmp_path):
    needs(form)
    found = export(str(smollm2_path), to=form, out=tmp_path / "out", at="prefill=1x64", rounds=2)
    assert found["proved"]["max_abs_diff"] <= found["proved"]["bound"]
    assert min(found["divergence"]["of"].values()) < 1e-6


@pytest.mark.real
def test_the_result_of_a_refit(to, tmp_path):
    """With narrower feed-forwards and int8 maps in it: int8 where the format has it, else refused, then in floats."""
    from layersmith.refitting.pipeline import refit

    made = refit(
        "pocket",
        budget={"bytes": 0.6},
        methods=["int8_dynamic", "width"],
        out=tmp_path / "run",
        effort=0.02,
        heal_tokens=0,
        at="prefill=1x32",
        progress=False,
    )
    assert "| parameters |" in (made.folder / "model" / "README.md").read_text(encoding="utf-8")
    folder, out = str(made.folder / "model"), tmp_path / "out"
    if to == "openvino":
        with pytest.raises(UserError, match=r"'int8_dynamic'.*--dequantize"):
            export(folder, to=to, out=out, at="prefill=1x32", rounds=2)
    found = export(folder, to=to, out=out, at="prefill=1x32", rounds=2, dequantize=to == "openvino")
    assert found["int8" if to == "onnx" else "floats"]
    assert found["proved"]["max_abs_diff"] <= found["proved"]["bound"]
