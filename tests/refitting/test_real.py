"""A short refit of three real pretrained models: it ends, meets its budget, and reloads to the same outputs."""

import pytest
from transformers import BertTokenizer

from layersmith.refitting.pipeline import refit

pytestmark = pytest.mark.real

#: Exchange reactions, one per paragraph, in the notation the ALBERT model reads.
REACTION = "CC(C)S.Fc1cccnc1F>>CC(C)Sc1ncccc1F"


def check(result, out):
    assert result["chosen"]["meets_budget"]
    assert result["chosen"]["candidates"]
    assert result["reload_max_abs_diff"] <= 1e-4
    assert (out / "report.html").exists()


def test_smollm2(smollm2_path, tmp_path):
    result = refit(
        str(smollm2_path),
        budget={"params": 0.9},
        methods=["drop"],
        at="prefill=1x64",
        heal_tokens=1024,
        effort=0.02,
        out=tmp_path / "run",
        progress=False,
    )
    check(result, tmp_path / "run")


def test_minilm(minilm_path, tmp_path):
    result = refit(
        str(minilm_path),
        budget={"params": 0.9},
        methods=["width"],
        at="prefill=4x32",
        heal_tokens=2048,
        effort=0.1,
        out=tmp_path / "run",
        progress=False,
    )
    check(result, tmp_path / "run")
    assert result["baseline"]["divergence_kind"] in (None, "relative_squared_error")


def test_albert_shares_one_block(albert_path, tmp_path):
    """One set of weights runs twelve times: a change at its only feed-forward touches all twelve."""
    sizes = [(a, b) for a in range(27) for b in range(27)]  # no row twice: what repeats is read once
    rows = [REACTION.replace("C)S", "C" * a + ")S").replace("Fc1", "C" * b + "c1") for a, b in sizes]
    rows = [" ".join(row).replace("> >", ">>") for row in rows]  # this tokenizer splits at spaces alone
    (tmp_path / "reactions.txt").write_text("\n\n".join(rows))
    from layersmith.checkpoint import load

    model, _ = load(str(albert_path))
    result = refit(
        model,
        tokenizer=BertTokenizer(str(albert_path / "vocab.txt"), do_lower_case=False),
        budget={"flops": 0.9},
        methods=["width"],
        data=str(tmp_path / "reactions.txt"),
        at="prefill=4x32",
        heal_tokens=0,
        effort=0.1,
        out=tmp_path / "run",
        progress=False,
    )
    check(result, tmp_path / "run")
