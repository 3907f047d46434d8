"""The middle blocks run otherwise: each plan by hand, blocks that do nothing, and models without a middle."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import transformers as tf

from layersmith.errors import UserError
from layersmith.explaining import painters
from layersmith.explaining.painters import Painters, in_order, plans_of
from layersmith.explaining.pipeline import explain
from tests.explaining.conftest import VOCABULARY, tiny

SETTINGS = {**Painters.settings, "orders": 2, "loops": 2}


def run(block: int, h: torch.Tensor) -> torch.Tensor:
    """Blocks that can be told apart, and whose order matters."""
    return h * (block + 1) + block


def deep(layers: int = 6) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = tf.LlamaConfig(vocab_size=VOCABULARY, num_hidden_layers=layers, max_position_embeddings=64, **sizes)
    model = tf.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    return model


def test_plans_by_hand() -> None:
    plans = plans_of(SETTINGS)
    h, middle = torch.tensor([1.0]), [1, 2, 3]

    def through(*order: int) -> float:
        value = 1.0
        for block in order:
            value = value * (block + 1) + block
        return value

    assert plans["skipped"][0](run, h, middle).item() == 1.0
    assert plans["repeated"][0](run, h, middle).item() == through(2, 2, 2)
    assert plans["reversed"][0](run, h, middle).item() == through(3, 2, 1)
    mean = (2 * 1 + 1 + 3 * 1 + 2 + 4 * 1 + 3) / 3
    assert plans["parallel"][0](run, h, middle).item() == mean
    assert plans["looped parallel"][0](run, h, middle).item() == pytest.approx(3 * mean + 2)
    ways = {through(*order) for order in ((1, 3, 2), (2, 1, 3), (2, 3, 1), (3, 1, 2), (3, 2, 1))}
    assert len(plans["shuffled"]) == 2
    assert all(plan(run, h, middle).item() in ways for plan in plans["shuffled"])
    assert in_order(run, h, middle).item() == through(1, 2, 3)


def survey(model: torch.nn.Module, tokenizer, out, **settings: int) -> dict:
    return explain(model, tool="painters", tokenizer=tokenizer, tokens=256, progress=False, out=out, settings=settings)[
        "survey"
    ]


def test_the_order_of_training_moves_nothing(tokenizer, tmp_path, monkeypatch) -> None:
    plans = {"as trained": [in_order], "reversed": [partial(painters.turned_round)]}
    monkeypatch.setattr(painters, "plans_of", lambda settings: plans)
    found = survey(deep(), tokenizer, tmp_path / "o")
    assert found["middle"] == {"1": 4, "2": 2}
    assert all(value == 0.0 for value in found["plans"]["as trained"].values())
    assert all(value > 1e-3 for value in found["plans"]["reversed"].values())


def test_blocks_that_add_nothing_may_be_run_in_any_way(tokenizer, tmp_path) -> None:
    model = deep()
    with torch.no_grad():
        for layer in model.model.layers[1:5]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    found = survey(model, tokenizer, tmp_path / "o")
    assert all(abs(value) < 1e-6 for by_size in found["plans"].values() for value in by_size.values())


def test_skipping_is_deleting_the_blocks(tokenizer, tmp_path) -> None:
    model = deep()
    whole = survey(model, tokenizer, tmp_path / "o", first=2)
    assert set(whole["plans"]["skipped"]) == {"2"}
    shorter = deep()
    del shorter.model.layers[2:4]
    ids = torch.arange(60)[None] * 7 % VOCABULARY
    from layersmith.anatomy import Replay, find_sites
    from layersmith.explaining.painters import skipped

    replay = Replay(model, find_sites(model))
    with torch.no_grad():
        entering = replay.block_inputs({"input_ids": ids})
        after = skipped(lambda block, h: replay.run_block(block, h, {"input_ids": ids}), entering[2], [2, 3])
        got = replay.run_from(4, after, {"input_ids": ids}).logits
        torch.testing.assert_close(got, shorter(input_ids=ids, use_cache=False).logits)


def test_a_whole_survey_and_its_page(tokenizer, tmp_path) -> None:
    found = survey(deep(), tokenizer, tmp_path / "o")
    assert found["blocks"] == 6
    assert set(found["plans"]) == {"skipped", "repeated", "reversed", "shuffled", "parallel", "looped parallel"}
    assert all(value > 0 for by_size in found["plans"].values() for value in by_size.values())
    assert "The middle blocks, run otherwise" in (tmp_path / "o" / "report.html").read_text()


@pytest.mark.parametrize(("shape", "said"), [("llama", "Take a model of at least four"), ("t5", "in another order")])
def test_models_without_a_middle_are_refused(shape, said, tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match=said):
        survey(tiny(shape), tokenizer, tmp_path / "o")


def test_too_many_first_blocks_are_refused(tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match="Set first to at most 2"):
        survey(deep(), tokenizer, tmp_path / "o", first=3)


@pytest.mark.parametrize("given", [{"first": 0}, {"orders": 0}, {"loops": 1}])
def test_settings_that_compare_nothing_are_refused(given: dict) -> None:
    with pytest.raises(UserError, match="must be at least"):
        Painters().check({**SETTINGS, **given})
