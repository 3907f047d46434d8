"""`explain` works where the model is: a tool with its floors and control, a dictionary, and surveys that train.

On a device that is not torch's default, played by CPU memory; what torch places by itself fails there.
"""

from __future__ import annotations

import pytest

from layersmith.explaining.pipeline import explain
from tests.elsewhere import ELSEWHERE, elsewhere
from tests.explaining.endpoint import oracle, serving


@pytest.mark.parametrize(
    ("tool", "settings"),
    [
        ("tests.explaining.tools:Matrix", {}),
        ("dictionary", {"expansion": 2, "k": 4, "steps": 3}),
        ("statistics", {}),
        ("lens", {"steps": 2}),
        ("bigrams", {"counted": 1024, "steps": 2}),
        ("unlearning", {"facts": 8, "forget": 2, "answers": 2, "steps": 2}),
        ("squashing", {"passages": 1, "directions": 1}),
        ("relations", {"answers": 4}),
        ("slime", {"neighbours": 8, "points": 64}),
    ],
)
def test_all_that_is_made_is_made_there(tool, settings, llama, tokenizer, tmp_path):
    import copy

    with elsewhere():
        model = copy.deepcopy(llama).to(ELSEWHERE)
        site = "layers.1.ffn" if tool in ("tests.explaining.tools:Matrix", "dictionary") else None
        asked = {"tool": tool, "settings": settings, "sites": site, "tokens": 512, "progress": False}
        found = explain(model, tokenizer=tokenizer, out=tmp_path / "out", **asked)
        assert found["environment"]["device"] == ELSEWHERE.type
        for module in found.modules.values():
            assert all(tensor.device == ELSEWHERE for tensor in module.state_dict().values())


@pytest.mark.parametrize("kind", ["transcoder", "sae"])
def test_passages_for_words_are_chosen_where_the_model_is(kind, llama, tokenizer, tmp_path):
    import copy

    asked = {"tool": "dictionary", "settings": {"kind": kind, "expansion": 2, "k": 4, "steps": 3}, "tokens": 512}
    with elsewhere(), serving(oracle) as server:
        model = copy.deepcopy(llama).to(ELSEWHERE)
        writer = {"words_by": server.address, "words_model": "oracle", "words": 2}
        asked |= {"sites": "layers.1.ffn", "progress": False}
        found = explain(model, tokenizer=tokenizer, out=tmp_path / "out", **asked, **writer)
    worded = [page["words"] for page in found["sites"][0]["pages"]["features"] if "words" in page]
    assert len(worded) == 2
    assert all(words["sentence"] and words["held_out"] for words in worded)
