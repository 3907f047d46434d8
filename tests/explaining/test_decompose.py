"""The survey `decompose`: parts sum to the whole in every shape of model; where the model is linear they are known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from layersmith.anatomy import Replay, find_sites
from layersmith.errors import UserError
from layersmith.explaining import decompose
from layersmith.explaining.constructions.induction_head import InductionHead
from layersmith.explaining.decompositions.deletion import falls
from layersmith.explaining.decompositions.parts import (
    Contextual,
    DecompX,
    Sublayer,
    against_rest,
    attention_of,
    of_tokens,
    through,
)
from layersmith.explaining.decompositions.rivals import integrated_gradients, rollout
from layersmith.explaining.norms import linear_norm
from layersmith.explaining.pipeline import explain
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.measuring.inputs import example_inputs
from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.model import TransformerConfig, TransformerLM
from tests.explaining.conftest import tiny

RULES = {"decompx": DecompX(), "contextual": Contextual()}


def recognised(model, batch):
    anatomy = find_sites(model)
    replay = Replay(model, anatomy, batch)
    subject = SimpleNamespace(model=model, anatomy=anatomy, replay=replay)
    return decompose._recognised(subject, batch), [x[0] for x in replay.block_inputs(batch)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", ["llama", "gpt2", "bert", "vit"])
def test_parts_sum_to_the_whole_after_every_block(shape, dtype) -> None:
    model = tiny(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)  # biases that are not zero
    model = model.to(dtype)
    batch = example_inputs(model, 1, 9)
    batch = {name: t.to(dtype) if t.is_floating_point() else t for name, t in batch.items()}
    with torch.no_grad():
        blocks, entering = recognised(model, batch)
        for name, parts in (("decompx", of_tokens(entering[0])), ("contextual", against_rest(entering[0]))):
            for block, whole in zip(blocks, entering[1:], strict=True):
                parts = through(block, parts, RULES[name])
                gap = (parts.sum(0) - whole).norm(dim=(-2, -1)) / whole.norm()
                # the rotary tables of models are float32 whatever their dtype
                assert float(gap.max()) < (1e-5 if dtype == torch.float32 else 1e-6), (name, shape)
            assert parts.shape[:2] == ((len(whole) + 1, 1) if name == "decompx" else (2, len(whole)))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "operator",
    [MLP(8, 12, act="sigmoid"), MLP(8, 12, act="relu"), GLU(8, 12, act="silu", bias=True), SoftmaxAttention(8, 2)],
    ids=["sigmoid", "relu", "glu", "attention"],
)
def test_every_operator_gives_parts_of_its_output(rule, operator) -> None:
    torch.manual_seed(0)
    operator = operator.double()
    x = torch.randn(5, 8).double()
    parts = of_tokens(x) if rule == "decompx" else against_rest(x)
    block = [Sublayer(operator, None, None, None, 0)]
    with torch.no_grad():
        y = operator(x[None])
    expected = x + (y[0] if isinstance(y, tuple) else y)[0]
    found = through(block, parts, RULES[rule])
    assert torch.allclose(found.sum(0), expected.expand_as(found[0]), atol=1e-12)


def test_a_whole_of_zero_and_dead_units_make_no_nan() -> None:
    block = [Sublayer(MLP(4, 4, act="relu", bias=False), None, None, None, 0)]
    parts = of_tokens(torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    for rule in RULES.values():
        found = through(block, parts[:2], rule)
        assert torch.isfinite(found).all()


def linear_model(bias: bool = False) -> TransformerLM:
    """Attention that looks everywhere alike, feed-forwards without a bend, no norm: all is linear in the input."""
    layer = {
        "norm": None,
        "mixer": {"name": "softmax_attention", "n_heads": 2, "bias": bias, "out_bias": bias},
        "ffn_norm": None,
        "ffn": {"name": "mlp", "d_hidden": 8, "act": "identity", "bias": bias},
    }
    torch.manual_seed(0)
    model = TransformerLM(TransformerConfig(vocab_size=20, d_model=8, layers=[layer, layer], final_norm=None)).double()
    with torch.no_grad():
        for block in model.layers:
            for parameter in block.mixer.q.parameters():
                parameter.zero_()
            for parameter in (*block.mixer.v.parameters(), *block.mixer.o.parameters(), *block.ffn.parameters()):
                parameter.normal_(std=0.5)
    return model.eval()


@pytest.mark.parametrize("rule", RULES)
def test_in_a_linear_model_a_part_is_what_the_model_makes_of_the_token_alone(rule) -> None:
    model = linear_model()
    batch = {"input_ids": torch.tensor([[3, 1, 4, 1, 5]])}
    with torch.no_grad():
        blocks, entering = recognised(model, batch)
        parts = of_tokens(entering[0]) if rule == "decompx" else against_rest(entering[0])
        for block in blocks:
            parts = through(block, parts, RULES[rule])
        replay = Replay(model, find_sites(model), batch)
        for token in range(5):
            alone = torch.zeros_like(entering[0])
            alone[token] = entering[0][token]
            expected = replay.block_inputs(batch)[0] * 0 + alone
            for index in range(2):
                expected = replay.run_block(index, expected, batch)
            found = parts[token, 0] if rule == "decompx" else parts[0, token]
            assert torch.allclose(found, expected[0], atol=1e-10)
            assert found[-1].abs().max() > 1e-3


@torch.no_grad()
def test_biases_are_the_last_part_and_tokens_have_what_they_add_to_it() -> None:
    model, batch = linear_model(bias=True), {"input_ids": torch.tensor([[3, 1, 4, 1, 5]])}
    blocks, entering = recognised(model, batch)
    replay = Replay(model, find_sites(model), batch)

    def left(x):
        for index in range(2):
            x = replay.run_block(index, x, batch)
        return x[0]

    parts, stream = of_tokens(entering[0]), entering[0][None]
    for block in blocks:
        parts = through(block, parts, DecompX())
    nothing = left(torch.zeros_like(stream))
    assert nothing.abs().max() > 0.1
    assert torch.allclose(parts[-1, 0], nothing, atol=1e-10)
    for token in range(5):
        alone = torch.zeros_like(stream)
        alone[:, token] = stream[:, token]
        assert torch.allclose(parts[token, 0], left(alone) - nothing, atol=1e-10)


@pytest.mark.parametrize("f", [torch.relu, torch.nn.functional.gelu, torch.sigmoid])
def test_an_activation_gives_all_parts_the_slope_of_a_line_through_its_value_at_zero(f) -> None:
    """Not its tangent, whose parts would sum to the whole as well once the rest counts as a bias."""
    torch.manual_seed(0)
    parts = torch.randn(3, 1, 2, 4).double()
    found, zero = DecompX().activated(f, parts), float(f(torch.zeros(())))
    for token in range(2):
        for unit in range(4):
            each = parts[:, 0, token, unit].tolist()
            slope = (float(f(torch.tensor(sum(each), dtype=torch.double))) - zero) / sum(each)
            wanted = [slope * each[0], slope * each[1], slope * each[2] + zero]
            assert found[:, 0, token, unit].tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@torch.no_grad()
def test_a_norm_centres_each_part_and_divides_it_by_the_spread_of_the_whole() -> None:
    torch.manual_seed(0)
    norm, silent = torch.nn.LayerNorm(6).double(), MLP(6, 4, bias=False).double()
    for parameter in norm.parameters():
        parameter.normal_()
    silent.down.weight.zero_()
    parts = torch.randn(4, 1, 3, 6).double()
    block = [Sublayer(silent, None, None, linear_norm(norm, parts.sum(0)), 0)]
    spread = (parts.sum(0).var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    wanted = norm.weight * (parts - parts.mean(-1, keepdim=True)) / spread
    wanted[-1] += norm.bias
    assert torch.allclose(through(block, parts, DecompX()), wanted, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_the_token_that_an_induction_head_copies_is_the_whole_answer(rule) -> None:
    construction = InductionHead()
    model = construction.build(construction.settled({"symbols": 10}))
    batch = {"input_ids": torch.tensor([[10, 4, 7, 1, 3, 8, 7]])}
    with torch.no_grad():
        blocks, entering = recognised(model, batch)
        parts = of_tokens(entering[0]) if rule == "decompx" else against_rest(entering[0])
        for block in blocks:
            parts = through(block, parts, RULES[rule])
        per_token = parts[:7, 0, -1] if rule == "decompx" else parts[0, :, -1]
        added = (per_token @ model.lm_head.weight.T)[:, 1]  # 1 came after the earlier 7
    assert int(added.argmax()) == 3
    assert float(added[3]) == pytest.approx(20.0, rel=1e-3)
    assert float(added.sum() - added[3]) == pytest.approx(0.0, abs=1e-2)


def test_integrated_gradients_add_up() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 3).double()
    x, base = torch.randn(4, 3).double(), torch.randn(4, 3).double()

    def score(rows):
        return (rows * weight).sum((-2, -1)) ** 2

    found = integrated_gradients(score, x, base, 16)
    assert float(found.sum()) == pytest.approx(float(score(x[None]) - score(base[None])), rel=1e-9)
    exact = ((x - base) * weight).sum(-1)
    assert torch.allclose(found / found.sum(), exact / exact.sum())


def test_rollout_of_attention_that_looks_everywhere_alike() -> None:
    attention = SoftmaxAttention(4, 1)
    torch.nn.init.zeros_(attention.q.weight)
    block, x = [Sublayer(attention, None, None, None, 0)], torch.randn(3, 4)
    even = torch.tensor([[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]])
    assert torch.allclose(attention_of(block, x), even, atol=1e-6)
    once = (even + torch.eye(3)) / 2
    assert torch.allclose(rollout([block, block], [x, x], 2), (once @ once)[2], atol=1e-6)


def test_deletion_takes_the_most_supporting_first_and_never_the_position_that_answers() -> None:
    x, base = torch.tensor([[1.0], [5.0], [2.0], [9.0]]), torch.zeros(4, 1)

    def score(rows):
        return rows.sum((-2, -1))

    right = falls(score, x, base, torch.tensor([1.0, 5.0, 2.0, 9.0]), 3)
    assert right[-1] == pytest.approx((5 + 7 + 8) / 3)
    assert right[0] == 5.0
    wrong = falls(score, x, base, torch.tensor([5.0, 1.0, 2.0, 9.0]), 3)
    assert wrong[-1] < right[-1]


def run(model, tokenizer, out, **settings):
    given = {"length": 10, "passages": 3, "steps": 4, **settings}
    return explain(model, tool="decompose", tokenizer=tokenizer, tokens=512, progress=False, out=out, settings=given)


def test_pocket_s_answers_fall_faster_in_a_ranking_than_by_chance(pocket, tokenizer, tmp_path) -> None:
    found = run(pocket, tokenizer, tmp_path / "o", length=16, passages=8)["survey"]
    assert max(found["gap"].values()) < 1e-5
    assert found["falls"]["decompx"][-1] > found["falls"]["random"][-1]
    first = found["passages"][0]
    assert first["of"] == "logit"
    assert sum(first["worth"]["decompx"]) + first["biases"] == pytest.approx(first["whole"], rel=1e-4)
    page = (tmp_path / "o" / "report.html").read_text()
    assert "What answers are made of" in page


@pytest.mark.parametrize("shape", ["gpt2", "bert", "vit"])
def test_every_shape_of_model_whose_blocks_are_recognised(shape, tokenizer, tmp_path) -> None:
    found = run(tiny(shape), None if shape == "vit" else tokenizer, tmp_path / "o")["survey"]
    assert max(found["gap"].values()) < 1e-5
    first = found["passages"][0]
    assert first["of"] == ("logit" if shape == "gpt2" else "stream")
    if shape != "gpt2":
        assert sum(first["worth"]["decompx"]) + first["biases"] == pytest.approx(1.0, rel=1e-4)
    assert first["position"] == (0 if shape == "vit" else 9)


def test_what_cannot_be_split_is_told_in_words(tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match="several stacks"):
        run(tiny("t5"), tokenizer, tmp_path / "o")
    with pytest.raises(UserError, match="half precision"):
        run(tiny("llama").bfloat16(), tokenizer, tmp_path / "p")
    with pytest.raises(UserError, match="at least 4"):
        run(tiny("llama"), tokenizer, tmp_path / "q", length=3)


def test_an_interrupted_run_goes_on(tokenizer, tmp_path, monkeypatch) -> None:
    model = tiny("llama")
    whole = run(model, tokenizer, tmp_path / "whole")["survey"]
    calls = []
    split = decompose._Passage.split

    def fails(self, steps, seed):
        calls.append(seed)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return split(self, steps, seed)

    monkeypatch.setattr(decompose._Passage, "split", fails)
    with pytest.raises(KeyboardInterrupt):
        run(model, tokenizer, tmp_path / "o")
    assert run(model, tokenizer, tmp_path / "o")["survey"] == whole
    assert calls == [0, 1, 1]  # two passages, the second one twice
