"""One search: what people ask for is found, best first, in their own words; papers by arXiv id or by their title."""

from __future__ import annotations

import pytest

from layersmith import catalogue, search
from layersmith.errors import UserError
from layersmith.explaining.constructions import CONSTRUCTIONS
from layersmith.explaining.tools import TOOLS
from layersmith.papers import papers
from layersmith.racing.optimizers import OPTIMIZERS
from layersmith.racing.tasks import TASKS
from layersmith.refitting import methods
from layersmith.refitting.heal.adapters import ADAPTERS
from layersmith.refitting.prove.folds import FOLDS


def found(query: str, most: int = 4) -> list[str]:
    """The best answers that can be run, as "kind name"."""
    return [f"{item.kind} {item.name}" for item in search.find(query) if item.runs][:most]


def read(query: str, most: int = 3) -> list[str]:
    """The titles of the best papers."""
    return [item.title for item in search.find(query) if not item.runs][:most]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("cheaper softmax", {"part linear_attention", "method linear_attention"}),
        ("early exit", {"method drop", "method span"}),
        ("kv cache", {"method kv_merge", "method linear_attention"}),
        ("prune heads", {"method heads"}),
        ("mixture of experts from dense model", {"method carve", "method topk_moe"}),
        ("skip layers", {"method drop", "method llm_drop"}),
        ("remove layer norm", {"part dyt", "method dyt"}),
        ("quantization", {"method gptq", "method rtn", "part quantized"}),
        ("layer drop", {"method drop", "method span"}),
        ("KAN", {"part kan", "method kan", "part gr_kan"}),
        ("linear attention", {"part linear_attention", "method linear_attention"}),
        ("sliding window", {"part softmax_attention"}),
        ("faster decoding", {"method kv_merge", "method fused_attention"}),
    ],
)
def test_the_obvious_is_found_among_the_first(query: str, expected: set[str]) -> None:
    assert expected <= set(found(query)), found(query)


@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("in-context learning as gradient descent", "Transformers learn in-context by gradient descent"),
        ("early exit", "Depth-Adaptive Transformer"),
        ("remove layer norm", "You can remove GPT2's LayerNorm by fine-tuning"),
        ("skip layers", "Learning to Skip the Middle Layers of Transformers"),
    ],
)
def test_papers_are_found_by_what_they_are_about(query: str, title: str) -> None:
    assert title in read(query)


def test_the_best_answer_comes_first() -> None:
    for query, first in (
        ("prune heads", "method heads"),
        ("kv cache", "method kv_merge"),
        ("mixture of experts from dense model", "method carve"),
        ("kan", "part kan"),
        ("gr_kan", "part gr_kan"),
        ("delta rule", "part deltanet"),
    ):
        assert found(query, 1) == [first], query


def test_a_word_counts_most_in_the_name_and_more_in_the_title_than_in_the_text() -> None:
    names = [item.name for item in search.find("span")]
    assert names[0] == "span"
    scored = {item.name: search._scores(item, ["butterfly"])[0] for item in search.index() if item.kind == "part"}
    assert scored["butterfly"] > scored["structured"] >= scored["glu"] == 0


def test_every_word_must_occur_and_where_none_has_them_all_some_will_do() -> None:
    both = {item.name for item in search.find("butterfly structured")}
    assert "glu" not in both
    some = search.find("butterfly zyxwvut")
    assert some[0].name == "butterfly"
    assert search.find("zyxwvut") == []


def test_everything_that_can_be_run_and_every_paper_is_in_the_index() -> None:
    kinds = {
        kind: [item.name for item in search.index() if item.kind == kind]
        for kind in ("method", "fold", "adapter", "construction", "tool", "task", "optimizer", "paper")
    }
    assert kinds == {
        "method": list(methods.METHODS),
        "fold": list(FOLDS),
        "adapter": list(ADAPTERS),
        "construction": list(CONSTRUCTIONS),
        "tool": list(TOOLS),
        "task": list(TASKS),
        "optimizer": list(OPTIMIZERS),
        "paper": list(papers()),
    }
    parts = [item.name for item in search.index() if item.kind in ("part", "scheme")]
    assert parts == list(catalogue.ENTRIES)
    assert len(search.find("")) == len(search.index())


@pytest.mark.parametrize("query", ["geglu", "swiglu", "reglu"])
def test_a_name_in_the_text_is_found(query: str) -> None:
    assert "part glu" in found(query, 40)


@pytest.mark.parametrize(
    ("words", "item"),
    [
        ("heads", "method heads"),
        ("gr_kan", "part gr_kan"),
        ("poly norm", "part poly_norm"),
        ("norm-place", "scheme norm_place"),
        ("pre_rms_norm", "fold pre_rms_norm"),
        ("lora", "adapter lora"),
        ("2411.03884", "paper 2411.03884"),
        ("arXiv:2411.03884v2", "paper 2411.03884"),
        ("https://arxiv.org/abs/2411.03884", "paper 2411.03884"),
        ("simplified transformer blocks", "paper 2311.01906"),
        ("are sixteen heads better", "paper 1905.10650"),
    ],
)
def test_things_are_named_as_people_name_them(words: str, item: str) -> None:
    named = search.item_named(words)
    assert f"{named.kind} {named.name}" == item


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("gr_can", "gr_kan"),
        ("widht", "'width'"),
        ("head", "heads"),
        ("2305.14735", "No paper of arXiv id 2305.14735 is on record"),
        ("linear transformers", "papers have"),
        ("zyxwvut", "searches"),
    ],
)
def test_a_wrong_name_is_told_what_is_near(words: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        search.item_named(words)


def test_endings_do_not_matter_and_other_words_do() -> None:
    assert search._alike("pruning", "prune")
    assert search._alike("simplified", "simplifying")
    assert search._alike("quantization", "quantized")
    assert not search._alike("mixer", "mixture")
    assert not search._alike("kan", "kanji")
