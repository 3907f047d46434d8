"""`explain` as a whole: null tests of the judging table, the control, all shapes of models, interruption, bad input."""

from __future__ import annotations

import copy
import json

import pytest
import torch

import layersmith
from layersmith.errors import UserError
from layersmith.explaining import judge as judging
from layersmith.explaining.pipeline import explain
from layersmith.explaining.sections import with_words
from layersmith.explaining.tools import TOOLS, get
from tests.explaining import tools
from tests.explaining.conftest import BUILDERS, tiny

FFN = "layers.1.ffn"


def run(model, tokenizer, out, tool="Matrix", **options):
    given = {"tokens": 512, "progress": False, "out": out, **options}
    return explain(model, tool=f"tests.explaining.tools:{tool}", tokenizer=tokenizer, **given)


def test_the_sublayer_itself_is_a_perfect_explanation(pocket, tokenizer, tmp_path) -> None:
    result = run(pocket, tokenizer, tmp_path / "o", "Same", sites=FFN)
    row = result["sites"][0]["table"]["explanation"]
    assert row["divergence"] == 0.0
    assert row["loss_recovered"] == row["loss_recovered_from_mean"] == 1.0
    assert row["agreement"] == 1.0
    assert row["local_error"] == 0.0
    assert "more faithful than every floor" in result["sites"][0]["verdicts"][0]


def test_nothing_is_exactly_the_zero_floor(pocket, tokenizer, tmp_path) -> None:
    site = run(pocket, tokenizer, tmp_path / "o", "Nothing", sites=FFN)["sites"][0]
    assert site["table"]["explanation"] == site["table"]["zero"]
    assert site["table"]["zero"]["local_error"] == 1.0
    assert site["table"]["zero"]["loss_recovered"] == 0.0
    assert site["rank"] == 3  # as many directions as are active
    best = min(judging.FLOORS, key=lambda floor: site["table"][floor]["divergence"])
    assert " NOT " in site["verdicts"][0]
    assert judging.FLOORS[best] in site["verdicts"][0] or "the linear floor" in site["verdicts"][0]


def test_the_verdict_follows_the_table() -> None:
    def told(explanation: float, **floors: float) -> str:
        rows = {"explanation": explanation, "zero": 4.0, "mean": 3.0, "linear": 2.0, "rank_r": 2.5, **floors}
        table = {name: {"divergence": value, "local_error": 1.0} for name, value in rows.items()}
        return judging.verdicts({**table, "shuffled": {"local_error": 1.0}})[0]

    assert "more faithful than every floor, the best of which is one matrix" in told(1.9)
    assert "does NOT beat the linear floor" in told(2.0)
    assert "beats the linear floor, but NOT no output (divergence 1.9 against 1)" in told(1.9, zero=1.0)


def test_a_matrix_is_the_linear_floor_and_its_control_stands_at_the_mean(llama, tokenizer, tmp_path) -> None:
    before = {name: t.clone() for name, t in llama.state_dict().items()}
    result = run(llama, tokenizer, tmp_path / "o", sites=[FFN], tokens=8192)
    table = result["sites"][0]["table"]
    assert table["explanation"] == table["linear"]
    assert table["linear"]["local_error"] < table["rank_r"]["local_error"] < table["mean"]["local_error"]
    assert table["mean"]["local_error"] < table["zero"]["local_error"]
    assert table["shuffled"]["local_error"] >= 0.99 * table["mean"]["local_error"]
    assert "stands at the floor" in result["sites"][0]["verdicts"][1]
    assert "does NOT beat" in result["sites"][0]["verdicts"][0]
    assert all(torch.equal(before[name], t) for name, t in llama.state_dict().items())
    assert isinstance(llama.get_submodule("model.layers.1.mlp"), type(llama.model.layers[0].mlp))


def test_a_tool_that_sees_through_the_shuffling_is_found_out(llama, tokenizer, tmp_path) -> None:
    site = run(llama, tokenizer, tmp_path / "o", "Cheat", sites=FFN)["sites"][0]
    assert "BETTER than a constant" in site["verdicts"][1]


def test_a_model_in_half_precision_is_explained_in_float32(tokenizer, tmp_path) -> None:
    model = tiny("llama").bfloat16()
    result = run(model, tokenizer, tmp_path / "o", "Same", sites=FFN)
    assert result["sites"][0]["table"]["explanation"]["divergence"] == 0.0
    result = run(model, tokenizer, tmp_path / "p", sites=FFN)
    assert result.modules[FFN].linear.weight.dtype == torch.float32
    assert model.dtype == torch.bfloat16


def test_what_explains_can_be_swapped_in(llama, tokenizer, tmp_path) -> None:
    result = run(llama, tokenizer, tmp_path / "o", sites=FFN)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = llama(ids).logits
        with layersmith.swap(llama, result.modules):
            assert not torch.equal(llama(ids).logits, before)
        assert torch.equal(llama(ids).logits, before)


@pytest.mark.parametrize("shape", BUILDERS)
def test_every_kind_of_site_of_every_shape_of_model(shape, tokenizer, tmp_path) -> None:
    result = run(tiny(shape), None if shape == "vit" else tokenizer, tmp_path / "o", tokens=256)
    kinds = {site["kind"] for site in result["sites"]}
    assert kinds == {"ffn", "mixer", "norm", "block"}
    for site in result["sites"]:
        for name, row in site["table"].items():
            assert row["divergence"] >= 0, (site["name"], name)
            assert row["local_error"] >= 0
        assert site["table"]["zero"]["local_error"] == pytest.approx(1.0)
        assert site["table"]["explanation"]["divergence"] == site["table"]["linear"]["divergence"]


def test_an_interrupted_run_goes_on_and_comes_to_the_same(llama, tokenizer, tmp_path, monkeypatch) -> None:
    sites = ["layers.0.ffn", FFN]
    whole = run(llama, tokenizer, tmp_path / "whole", sites=sites)["sites"]
    monkeypatch.setattr(tools.Matrix, "fits", 0)
    fit = tools.Matrix.explain

    def fails(self, *arguments):
        if self.fits == 2:  # the first site and its control are done
            raise KeyboardInterrupt
        return fit(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tools.Matrix, "explain", fails)
        with pytest.raises(KeyboardInterrupt):
            run(llama, tokenizer, tmp_path / "o", sites=sites)
    assert not (tmp_path / "o" / "result.json").exists()
    result = run(llama, tokenizer, tmp_path / "o", sites=sites)
    assert result["sites"] == whole
    assert tools.Matrix.fits == 4  # nothing was fitted twice
    assert list(result.modules) == [FFN]
    assert not list((tmp_path / "o" / "workspace").rglob("captured/**/*.safetensors"))


def test_the_files_hold_what_is_returned_and_escape_what_tools_say(llama, tokenizer, tmp_path) -> None:
    result = run(llama, tokenizer, tmp_path / "o", sites=FFN)
    assert json.loads((tmp_path / "o" / "result.json").read_text()) == result.to_json()
    page = (tmp_path / "o" / "report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert '<span class="s4">&lt;i&gt;</span><span class="s1"> word</span>' in page
    assert "floor: one matrix" in page
    assert "does NOT beat the linear floor" in page


def test_another_run_is_not_mixed_in(llama, tokenizer, tmp_path) -> None:
    run(llama, tokenizer, tmp_path / "o", sites=FFN)
    with pytest.raises(UserError, match="seed"):
        run(llama, tokenizer, tmp_path / "o", sites=FFN, seed=1)
    other = copy.deepcopy(llama)
    with torch.no_grad():
        other.model.norm.weight.mul_(2)
    with pytest.raises(UserError, match="the weights of the model"):
        run(other, tokenizer, tmp_path / "o", sites=FFN)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sites": "layers.1.fnn"}, r"layers\.1\.ffn"),
        ({"sites": []}, "at least one name"),
        ({"tool": "statistic"}, "Did you mean 'statistics'"),
        ({"tool": "tests.explaining.tools:Matrx"}, "package.module:Class"),
        ({"settings": {"strenght": 1}}, "Did you mean 'strength'"),
        ({"settings": {"strength": "much"}}, "like 0.001"),
        ({"tokens": 3}, "at least 256"),
        ({"data": "no/such/file"}, "no text at"),
        ({"tool": "tests.explaining.tools:Same", "sites": "layers.0.attn"}, "kind ffn"),
        ({"tool": "tests.explaining.tools:Broken", "sites": FFN}, "NaN or infinity"),
        ({"device": "cpu"}, "stays where it is"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_input_is_told_in_words(options, told, llama, tokenizer, tmp_path) -> None:
    given = {"tool": "tests.explaining.tools:Matrix", "tokens": 512, "progress": False, "out": tmp_path / "o"}
    with pytest.raises(UserError, match=told):
        explain(llama, tokenizer=tokenizer, **{**given, **options})


def test_a_locked_site_and_a_broken_model_are_refused(tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match="position bias"):
        run(tiny("t5"), tokenizer, tmp_path / "o", sites="decoder.layers.0.attn")
    model = tiny("llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="NaN or infinite"):
        run(model, tokenizer, tmp_path / "p", sites=FFN)
    assert not (tmp_path / "p").exists()


def test_too_little_text_is_refused_with_the_numbers(llama, tokenizer, tmp_path) -> None:
    (tmp_path / "short.txt").write_text("A few words only.")
    with pytest.raises(UserError, match="too little"):
        run(llama, tokenizer, tmp_path / "o", data=str(tmp_path / "short.txt"))


def test_nothing_recovered_where_nothing_is_lost() -> None:
    assert judging._recovered(2.0, 1.5, 1.0) == 0.5
    assert judging._recovered(1.0, 1.5, 1.0) is None


def test_passages_of_features_become_words(tokenizer) -> None:
    ids = tokenizer("for each line", add_special_tokens=False)["input_ids"]
    codes = [0.0, 1.0, 4.0][: len(ids)] + [0.0] * (len(ids) - 3)
    feature = {"feature": 7, "most": 4.0, "passages": [{"ids": ids, "codes": codes}, {"ids": None, "codes": []}]}
    pages = {"features": [feature], "sections": [{"title": "first"}]}
    first, made = with_words(pages, tokenizer)["sections"]
    assert first == {"title": "first"}
    assert made["title"] == "Feature 7"
    (passage,) = made["passages"]
    assert "".join(word for word, _ in passage["tokens"]) == "for each line"
    assert [strength for _, strength in passage["tokens"]][:3] == [0.0, 0.25, 1.0]
    assert with_words(pages, None) is pages


def test_tables_name_tools_that_are_there() -> None:
    for name in TOOLS:
        assert get(name).name == name
        assert get(name).summary.endswith(".")
