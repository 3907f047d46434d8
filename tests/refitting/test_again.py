"""What a refit leaves is a model like any other: it can be refitted again, and is as large as was promised."""

import pytest
import torch
from safetensors.torch import load_file

from layersmith.checkpoint import LayersmithModel, load
from layersmith.refitting.pipeline import refit
from tests.refitting.conftest import tiny_llama

QUICK = {"at": "prefill=1x32", "heal_tokens": 0, "effort": 0.05, "distill_steps": 0, "progress": False}


@pytest.mark.parametrize("wrap", [lambda model: model, torch.compile], ids=["as it is", "compiled"])
def test_a_result_can_be_refitted(wrap, finished, tmp_path, text, tokenizer):
    first, _ = load(finished[0] / "model")
    assert isinstance(first, LayersmithModel)
    before = sum(p.numel() for p in first.parameters())
    again = refit(
        wrap(first),
        tokenizer=tokenizer,
        data=text,
        budget={"params": 0.98},
        methods=["kv_merge", "width", "drop"],
        out=tmp_path / "again",
        **QUICK,
    )
    assert again.meets_budget
    second, _ = load(tmp_path / "again" / "model")
    assert again["baseline"]["params"] == before
    assert sum(p.numel() for p in second.parameters()) <= 0.98 * before


@pytest.mark.parametrize(("method", "share"), [("width", 0.97), ("rtn", 0.95)])
def test_a_budget_of_bytes_is_met_on_the_disk(method, share, tmp_path, text, tokenizer):
    """A folder in bfloat16 counts as it is stored, though work is done in float32: eight bits are half of it then."""
    tiny_llama(layers=2).bfloat16().save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    out = tmp_path / "run"
    result = refit(str(tmp_path / "source"), data=text, budget={"bytes": share}, methods=[method], out=out, **QUICK)
    assert result.meets_budget
    assert result["chosen"]["predicted"]["bytes"] == result.refitted["bytes"]
    sizes = []
    for folder, said in ((tmp_path / "source", result.original), (out / "model", result.refitted)):
        stored = load_file(folder / "model.safetensors").values()
        sizes.append(sum(t.numel() * t.element_size() for t in stored))
        assert said["bytes"] == pytest.approx(sizes[-1], rel=1e-3)  # a table of rotations is in memory alone
    assert sizes[1] <= share * sizes[0]


@pytest.mark.parametrize(
    ("dtype", "share"), [("bfloat16", 0.49), pytest.param("float16", 0.6, marks=pytest.mark.real), ("float32", 0.97)]
)
def test_another_dtype_is_held_against_the_source_as_it_is_stored(dtype, share, tmp_path, text, tokenizer):
    """Half precision halves a file in float32; counted from the smaller one, half would be asked for twice."""
    tiny_llama(layers=2).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    asked = {"budget": {"bytes": share}, "methods": ["width"], "dtype": dtype, **QUICK}
    result = refit(str(tmp_path / "source"), data=text, out=tmp_path / "run", **asked)
    assert result.meets_budget
    sizes = []
    for folder, said in ((tmp_path / "source", result.original), (tmp_path / "run" / "model", result.refitted)):
        stored = load_file(folder / "model.safetensors").values()
        sizes.append(sum(t.numel() * t.element_size() for t in stored))
        assert said["bytes"] == pytest.approx(sizes[-1], rel=1e-3)
    assert sizes[1] <= share * sizes[0]
    assert result["chosen"]["predicted"]["bytes"] == result.refitted["bytes"]
    changed = [taken for taken in result["chosen"]["choice"].values() if taken != "keep"]
    assert bool(changed) == (share != 0.6), "nothing has to change where the dtype alone is enough"
