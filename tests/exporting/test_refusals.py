"""What cannot be exported is said in one paragraph, before anything is written."""

import importlib.util

import pytest
import torch

from layersmith.errors import MissingExtra, UserError
from layersmith.exporting import targets
from layersmith.exporting.pipeline import export
from layersmith.linear.half_precision import HalfPrecision
from layersmith.linear.int8_dynamic import Int8Dynamic
from layersmith.linear.quantized import QuantizedLinear
from tests.commands.conftest import run as run
from tests.exporting.models import llama, rounded


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(targets, "find_spec", lambda name: object())


def refused(message, **options):
    with pytest.raises(UserError, match=message):
        export("pocket", **options)


def test_an_unknown_format_is_told_with_the_one_that_was_meant(tmp_path):
    refused("Did you mean 'onnx'", to="onx", out=tmp_path / "x")


@pytest.mark.parametrize(("to", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino"), ("gguf", "gguf")])
def test_a_missing_library_names_its_extra(to, package, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(targets, "find_spec", lambda name: None if name == package else found("torch"))
    with pytest.raises(MissingExtra, match=rf"{package!r}.*\[{to}\]"):
        export("pocket", to=to, out=tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(tmp_path, installed):
    (tmp_path / "a.onnx").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b").write_text("mine")
    refused("exists", to="onnx", out=tmp_path / "a.onnx")
    refused("exists", to="onnx", out=tmp_path / "folder")
    assert (tmp_path / "a.onnx").read_text() == "mine"


def test_a_file_of_another_format_is_refused(tmp_path, installed):
    refused(r"\.gguf", to="gguf", out=tmp_path / "a.onnx")


def test_only_gguf_has_a_choice_of_dtype(tmp_path, installed):
    refused("only GGUF", to="onnx", out=tmp_path / "a", dtype="float16")
    refused("float8", to="gguf", out=tmp_path / "a", dtype="float8")


def test_there_is_no_decode(tmp_path, installed):
    refused("keeps no cache", to="onnx", out=tmp_path / "a", at="decode=1x128")


def test_the_command_says_so_too(run, tmp_path, installed):
    status, _, err = run("export", "pocket", "--to", "tflite", "--out", str(tmp_path / "a"))
    assert status == 2
    assert err.startswith("There is no format 'tflite'")
    assert len(err.strip().split("\n\n")) == 1


@pytest.mark.parametrize("part", [Int8Dynamic, HalfPrecision])
def test_parts_that_round_are_refused_by_name_with_the_way_out(part, tmp_path):
    pytest.importorskip("gguf")
    model, paths = rounded(llama(), tmp_path / "model", part)
    with pytest.raises(UserError, match=rf"6 of {part.name!r}.*{paths[0]}.*--dequantize"):
        export(model, to="gguf", out=tmp_path / "a.gguf")
    assert not (tmp_path / "a.gguf").exists()


def test_a_model_in_half_precision_is_refused(tmp_path, installed):
    with pytest.raises(UserError, match="float32"):
        export(llama().to(torch.bfloat16), to="onnx", out=tmp_path / "a")


def test_codes_are_told_from_other_whole_numbers():
    from torch import nn

    from layersmith.exporting.expressible import in_floats, with_codes
    from layersmith.linear.block_shuffle import BlockShuffle

    parts = {
        "int8": Int8Dynamic(8, 6, bias=True),
        "packed": QuantizedLinear(64, 6),
        "halved": HalfPrecision(8, 6),
        "dense": nn.Linear(8, 6),
        "shuffled": BlockShuffle(8, 8),
    }
    found = with_codes(nn.ModuleDict(parts))
    assert sorted(found) == ["halved", "int8", "packed"]
    for part in found.values():
        made, x = in_floats(part), torch.randn(3, part.d_in)
        expected = x.double() @ part.dense_weight().double().T
        expected = expected if part.bias is None else expected + part.bias.double()
        torch.testing.assert_close(made.double()(x.double()), expected, rtol=1e-6, atol=1e-6)


def test_a_model_with_both_kinds_has_each_as_it_is_held():
    """What the format can express stays; the rest becomes floats, in the file and in what it is held against."""
    from torch import nn

    from layersmith.exporting.expressible import dequantized, expressed

    model = nn.Sequential(Int8Dynamic(8, 6), HalfPrecision(6, 4))
    model.append(model[1])
    stands_in = nn.Identity()
    plain, became = expressed(model, lambda part: stands_in if isinstance(part, Int8Dynamic) else None, True, "X")
    assert plain[0] is stands_in
    assert became == {"int8": ["0"], "floats": ["1", "2"]}
    assert plain[1] is plain[2], "one module at two places stays one"
    assert isinstance(model[1], HalfPrecision), "the model itself is left alone"
    reference = dequantized(model, became["floats"])
    assert isinstance(reference[0], Int8Dynamic)
    assert torch.equal(reference[1].weight, model[1].dense_weight())
    with pytest.raises(UserError, match=r"1 of 'bf16'.*--dequantize"):
        expressed(model, lambda part: stands_in if isinstance(part, Int8Dynamic) else None, False, "X")
