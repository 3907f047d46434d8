"""Experts that go with a behaviour: counted, ranked, forced on and off, on mixtures of three shapes."""

from __future__ import annotations

import math
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers as tf

from layersmith.errors import UserError
from layersmith.explaining.pipeline import explain
from layersmith.explaining.routing import MARGIN, counting, overruled, routers, steered
from layersmith.explaining.steering import Steering, chosen_rules, random_rules
from tests.explaining.conftest import VOCABULARY, tiny

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
}
MIXTURES = {
    "mixtral": lambda: tf.MixtralForCausalLM(tf.MixtralConfig(intermediate_size=16, num_local_experts=6, **SIZES)),
    "qwen3_moe": lambda: tf.Qwen3MoeForCausalLM(
        tf.Qwen3MoeConfig(
            intermediate_size=16,
            moe_intermediate_size=16,
            num_experts=6,
            head_dim=8,
            norm_topk_prob=True,
            decoder_sparse_step=1,
            mlp_only_layers=[],
            **SIZES,
        )
    ),
    "olmoe": lambda: tf.OlmoeForCausalLM(
        tf.OlmoeConfig(intermediate_size=16, num_experts=6, norm_topk_prob=False, **SIZES)
    ),
}
IDS = torch.arange(40).view(2, 20) * 7 % VOCABULARY


def mixture(shape: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = MIXTURES[shape]().eval().requires_grad_(False)
    for module in routers(model).values():
        torch.nn.init.normal_(module.weight)
    return model


def seen(model: torch.nn.Module) -> dict[str, tuple[torch.Tensor, ...]]:
    """Router -> (logits, weights, chosen) of one forward."""
    kept: dict[str, tuple[torch.Tensor, ...]] = {}
    hooks = [
        m.register_forward_hook(lambda module, args, output, path=path: kept.update({path: output}))
        for path, m in routers(model).items()
    ]
    with torch.no_grad():
        model(input_ids=IDS, use_cache=False)
    for hook in hooks:
        hook.remove()
    return kept


@pytest.mark.parametrize("shape", MIXTURES)
def test_tokens_that_chose_an_expert_are_counted(shape) -> None:
    model = mixture(shape)
    with torch.no_grad(), counting(model) as counts:
        model(input_ids=IDS, use_cache=False)
        model(input_ids=IDS[:1], use_cache=False)
    assert len(counts) == 2
    whole = seen(model)
    for path, (logits, _, _) in whole.items():
        best = [sorted(range(6), key=lambda e, row=row: -row[e])[:2] for row in logits.tolist()]
        wanted = [sum(e in chosen for chosen in best) + sum(e in chosen for chosen in best[:20]) for e in range(6)]
        assert counts[path].tolist() == [*wanted, 60]


@pytest.mark.parametrize("shape", MIXTURES)
def test_forced_experts_are_always_or_never_chosen_and_weighed_as_the_model_weighs(shape) -> None:
    model = mixture(shape)
    first = next(iter(routers(model)))
    before = seen(model)[first][0]
    with steered(model, {first: torch.tensor([0, 1, 0, 0, -1, 0], dtype=torch.int8)}):
        _, weights, chosen = seen(model)[first]
    assert (chosen == 1).any(1).all()
    assert not (chosen == 4).any()
    for row, token in enumerate(before.tolist()):
        total = sum(math.exp(v) for v in token)
        log_p = [v - math.log(total) for v in token]
        log_p[1], log_p[4] = max(log_p) + MARGIN, min(log_p) - MARGIN
        best = sorted(range(6), key=lambda e, log_p=log_p: -log_p[e])[:2]
        scale = sum(math.exp(log_p[e]) for e in (range(6) if shape == "olmoe" else best))
        assert chosen[row].tolist() == best
        assert weights[row].tolist() == pytest.approx([math.exp(log_p[e]) / scale for e in best], rel=1e-4)


@pytest.mark.parametrize("shape", MIXTURES)
def test_nothing_forced_is_the_model_bit_for_bit_and_afterwards_it_is_the_model_again(shape) -> None:
    model = mixture(shape)
    with torch.no_grad():
        plain = model(input_ids=IDS, use_cache=False).logits
        with steered(model, {path: torch.zeros(6, dtype=torch.int8) for path in routers(model)}):
            assert torch.equal(model(input_ids=IDS, use_cache=False).logits, plain)
        with steered(model, {path: torch.tensor([1, -1, 0, 0, 0, 0]) for path in routers(model)}):
            assert not torch.equal(model(input_ids=IDS, use_cache=False).logits, plain)
        assert torch.equal(model(input_ids=IDS, use_cache=False).logits, plain)


def test_the_margin_is_taken_from_the_token_itself() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [5.0, 1.0, 1.0]])
    log_p = logits.log_softmax(-1)
    got = overruled(logits, torch.tensor([1, 0, -1]))
    torch.testing.assert_close(got[:, 0], log_p.max(1).values + MARGIN)
    torch.testing.assert_close(got[:, 1], log_p[:, 1])
    torch.testing.assert_close(got[:, 2], log_p.min(1).values - MARGIN)


def test_the_largest_differences_are_forced_and_no_layer_is_forced_beyond_what_it_chooses() -> None:
    differences = {
        "a": torch.tensor([0.9, 0.8, 0.7, -0.1], dtype=torch.float64),
        "b": torch.tensor([0.3, -0.6, 0.0, -0.2], dtype=torch.float64),
    }
    rules = chosen_rules(differences, {"a": 2, "b": 2}, activate=3, deactivate=2)
    assert rules["a"].tolist() == [1, 1, 0, 0]  # two are chosen by a token, so a third would not be heard
    assert rules["b"].tolist() == [1, -1, 0, -1]
    few = chosen_rules(differences, {"a": 2, "b": 3}, activate=0, deactivate=9)
    assert few["b"].tolist() == [0, -1, 0, 0]  # three of four have to be left
    drawn = random_rules(rules, seed=0)
    assert drawn["a"].tolist() == [0, 0, 1, 1]  # the only others
    assert sorted(drawn["b"].tolist()) == [-1, -1, 0, 1]
    assert drawn["b"][2] != 0


def test_a_planted_expert_is_found_first_and_forcing_it_moves_the_model_towards_its_text(tokenizer, tmp_path) -> None:
    """An expert that is chosen at the words of one text, and whose output speaks for these words."""
    texts, ids, others = _two_styles(tokenizer, tmp_path)
    model = mixture("mixtral")
    path, u, v = list(routers(model))[1], torch.eye(32)[3], torch.eye(32)[7]
    with torch.no_grad():
        model.model.embed_tokens.weight[ids] += 4 * u
        model.model.embed_tokens.weight[others] -= 4 * u
        for module in routers(model).values():
            module.weight[:, 3] = 0
        routers(model)[path].weight[2] = 3 * u
        experts = model.model.layers[1].mlp.experts
        experts.gate_up_proj[2] = torch.randn(16, 32).repeat(2, 1)  # z sigmoid(z) z is never negative
        experts.down_proj[2] = 0.5 * v[:, None].expand(32, 16)
        model.lm_head.weight[ids] += 1.5 * v
    asked = {"towards": texts["towards"], "away": texts["away"], "activate": 1, "deactivate": 0, "windows": 4}
    result = explain(
        model, tool="steering", tokenizer=tokenizer, out=tmp_path / "out", tokens=512, settings=asked, progress=False
    )
    found = result["survey"]
    assert (found["experts"][0]["router"], found["experts"][0]["expert"]) == (path, 2)
    assert found["experts"][0]["forced"] == "on"
    assert found["experts"][0]["difference"] > 0.5
    rows = found["steered"]
    gained = {name: row["preference"] - rows["not steered"]["preference"] for name, row in rows.items()}
    assert gained["steered"] > 0.2
    assert all(gained["steered"] > 2 * gained[name] for name in rows if name.startswith("random"))
    assert rows["steered"]["data"] != rows["not steered"]["data"]
    assert not any(module._forward_hooks for module in routers(model).values())
    assert "What forcing does" in (tmp_path / "out" / "report.html").read_text()


def test_a_text_that_has_changed_under_its_name_is_counted_anew(tokenizer, tmp_path) -> None:
    texts, _, _ = _two_styles(tokenizer, tmp_path)

    def shares(side: str) -> dict[tuple[str, int], float]:
        found = explain(
            mixture("mixtral"), tool="steering", tokenizer=tokenizer, out=tmp_path / "out", tokens=512, progress=False,
            settings={**texts, "windows": 2, "random": 1},
        )["survey"]  # fmt: skip
        return {(each["router"], each["expert"]): each[side] for each in found["experts"]}

    before = shares("towards")
    assert shares("towards") == before
    towards, away = (Path(texts[side]) for side in ("towards", "away"))
    other = away.read_text()
    away.write_text(towards.read_text())
    towards.write_text(other)
    assert shares("towards") != before


def _two_styles(tokenizer, folder) -> tuple[dict[str, str], list[int], list[int]]:
    """Two texts of different words, and the token ids that only the first one, or only the second one, has."""
    words = {
        "towards": ["return", "self", "import", "class", "value", "index"],
        "away": ["the", "house", "was", "old", "and", "cold"],
    }
    rng, texts, ids = random.Random(0), {}, {}
    for side, each in words.items():
        text = "\n\n".join(" ".join(rng.choice(each) for _ in range(60)) for _ in range(120))
        path = folder / f"{side}.txt"
        path.write_text(text)
        texts[side], ids[side] = str(path), set(tokenizer(text[:4000])["input_ids"])
    return texts, sorted(ids["towards"] - ids["away"]), sorted(ids["away"] - ids["towards"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "contrasts two texts"),
        ({"towards": "stdlib", "away": "stdlib"}, "contrasts two texts"),
        ({"towards": "stdlib", "away": "/nowhere/at/all.txt"}, "There is no text at '/nowhere/at/all.txt'"),
        ({"towards": "stdlib", "away": "x", "random": 0}, "random must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_work(settings, message, llama, tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match=message):
        explain(llama, tool="steering", tokenizer=tokenizer, out=tmp_path / "o", settings=settings, progress=False)
    assert not (tmp_path / "o").exists()


def test_a_model_without_routers_is_refused() -> None:
    with pytest.raises(UserError, match="LlamaForCausalLM has no routers that are known here"):
        routers(tiny("llama"))


def test_a_mixture_that_foretells_no_next_token_is_refused() -> None:
    config = tf.MixtralConfig(intermediate_size=16, num_local_experts=6, num_labels=3, **SIZES)
    subject = SimpleNamespace(model=tf.MixtralForSequenceClassification(config), sites=[])
    with pytest.raises(UserError, match="MixtralForSequenceClassification does not foretell"):
        Steering().survey(subject, {})


def test_a_router_that_weighs_in_another_way_is_refused() -> None:
    model = mixture("mixtral")
    module = next(iter(routers(model).values()))
    whole = module.forward
    module.forward = lambda x: (whole(x)[0], whole(x)[1] * 0.5, whole(x)[2])
    rules = {path: torch.tensor([1, 0, 0, 0, 0, 0]) for path in routers(model)}
    with pytest.raises(UserError, match="does not weigh its experts by the softmax"), steered(model, rules):
        model(input_ids=IDS, use_cache=False)
