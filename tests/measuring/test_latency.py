"""Nothing here waits or reads the real clock: time is a counter that the timed callables advance themselves."""

import copy

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from layersmith.errors import UserError
from layersmith.measuring.latency import Step, latency, model_inputs, model_step, ratio
from layersmith.measuring.shape import Shape


class Clock:
    """Seconds that pass only when something says it took time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def takes(self, name: str, seconds: float):
        def call() -> None:
            self.calls.append(name)
            self.now += seconds

        return call


def test_callables_take_turns_in_an_order_shuffled_by_seed() -> None:
    def order(seed: int) -> list[str]:
        clock = Clock()
        latency({n: clock.takes(n, 1.0) for n in "ABC"}, rounds=20, warmup=1, seed=seed, clock=clock)
        return clock.calls[3:]  # after the warm-up

    calls = order(0)
    rounds = [calls[i : i + 3] for i in range(0, 60, 3)]
    assert all(sorted(r) == ["A", "B", "C"] for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1
    assert order(0) == calls
    assert order(1) != calls


def test_the_slower_callable_has_the_larger_median_and_ratio() -> None:
    clock = Clock()
    found = latency({"fast": clock.takes("f", 0.2), "slow": clock.takes("s", 0.5)}, rounds=4, clock=clock)
    assert found["fast"].median == pytest.approx(0.2)
    assert found["slow"].median == pytest.approx(0.5)
    assert ratio(found, "slow", "fast") == pytest.approx(2.5)
    assert found["slow"].n == len(found["slow"].samples) == 4


def test_ratio_is_formed_within_rounds() -> None:
    """A machine that slows down fivefold half-way moves the medians, not the ratio."""
    clock = Clock()
    called = {"a": 0, "b": 0}

    def drifting(name: str, seconds: float):
        def call() -> None:
            called[name] += 1
            clock.now += seconds * (5 if called[name] > 12 else 1)

        return call

    found = latency({"a": drifting("a", 1.0), "b": drifting("b", 2.0)}, rounds=20, warmup=2, clock=clock)
    assert found["a"].p75 == pytest.approx(5.0)
    assert ratio(found, "b", "a") == pytest.approx(2.0)


def test_preparation_is_not_timed_and_runs_before_every_call() -> None:
    clock = Clock()
    step = Step(run=clock.takes("run", 1.0), before=clock.takes("before", 100.0))
    found = latency({"a": step}, rounds=3, warmup=1, clock=clock)
    assert found["a"].median == 1.0
    assert clock.calls == ["before", "run"] * 4


def test_short_calls_are_repeated_up_to_min_seconds() -> None:
    clock = Clock()
    found = latency({"a": clock.takes("a", 0.001)}, rounds=2, warmup=1, min_seconds=0.01, clock=clock)
    assert len(clock.calls) == 1 + 2 * 10
    assert found["a"].median == pytest.approx(0.001)


def test_quartiles_of_known_samples() -> None:
    clock = Clock()
    durations = iter([9.0, 1.0, 2.0, 3.0, 4.0, 5.0])

    def call() -> None:
        clock.now += next(durations)

    found = latency({"a": call}, rounds=5, warmup=1, clock=clock)["a"]
    assert (found.p25, found.median, found.p75) == (2.0, 3.0, 4.0)


def test_no_gradients_while_timing() -> None:
    seen: list[bool] = []
    latency({"a": lambda: seen.append(torch.is_grad_enabled())}, rounds=1, warmup=1)
    assert seen == [False, False]


def test_no_rounds_is_refused() -> None:
    with pytest.raises(UserError, match="at least one round"):
        latency({"a": lambda: None}, rounds=0)


def test_prefill_runs_the_whole_prompt_without_a_cache(tiny: nn.Module) -> None:
    seen = _spy(tiny)
    model_step(tiny, Shape("prefill", 2, 7))()
    assert seen == [((2, 7), 0)]


def test_decode_runs_one_token_and_every_step_starts_with_the_same_cache(tiny: nn.Module) -> None:
    seen = _spy(tiny)
    step = model_step(tiny, Shape("decode", 2, 7))
    with torch.no_grad():
        for _ in range(3):
            step()
    assert seen == [((2, 7), 0), *[((2, 1), 7)] * 3]


def test_decode_equals_the_last_position_of_a_whole_forward(tiny: nn.Module) -> None:
    tiny = copy.deepcopy(tiny).double()  # in float32 the two orders of summation differ by as much as a bound allows
    shape = Shape("decode", 1, 7)
    inputs = model_inputs(tiny, shape)
    with torch.no_grad():
        prompt = model_inputs(tiny, Shape("prefill", 1, 7))["input_ids"]
        whole = tiny(torch.cat([prompt, inputs["input_ids"]], dim=1)).logits[:, -1]
        step = model_step(tiny, shape)
        step()
        again = step().logits[:, -1]
    torch.testing.assert_close(again, whole)


def test_decode_of_an_encoder_decoder_keeps_its_cache(encoder_decoder: nn.Module) -> None:
    inputs = model_inputs(encoder_decoder, Shape("decode", 1, 5))
    step = model_step(encoder_decoder, Shape("decode", 1, 5))
    with torch.no_grad():
        first, second = step().logits, step().logits
    assert inputs["past_key_values"].get_seq_length() == 5
    torch.testing.assert_close(first, second)


def test_an_encoder_has_no_decode(encoder: nn.Module) -> None:
    with pytest.raises(UserError, match="prefill=1x8"):
        model_step(encoder, Shape("decode", 1, 8))


def test_a_shape_beyond_the_positions_is_refused() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=4, n_positions=64)).eval()
    with pytest.raises(UserError, match="64 positions"):
        model_step(model, Shape("prefill", 1, 65))
    with pytest.raises(UserError, match="64 positions"):
        model_step(model, Shape("decode", 1, 64))


def test_rotary_positions_go_on_beyond_the_context(tiny: nn.Module) -> None:
    """What a step costs there is asked, not what the model says."""
    with torch.no_grad():
        assert model_step(tiny, Shape("prefill", 1, 65))().logits.shape[1] == 65
        assert model_step(tiny, Shape("decode", 1, 64))().logits.shape[1] == 1


def _spy(model: nn.Module) -> list[tuple[tuple[int, ...], int]]:
    """(shape of the ids, tokens in the cache) at the start of every forward."""
    seen: list[tuple[tuple[int, ...], int]] = []

    def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
        cache = kwargs.get("past_key_values")
        seen.append((tuple(kwargs["input_ids"].shape), cache.get_seq_length() if cache is not None else 0))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return seen


def test_tokens_in_dimension_0_are_refused_not_confused_with_the_batch() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 48), 1, enable_nested_tensor=False)
    with pytest.raises(UserError, match="batch_first=True"):
        model_step(model, Shape("prefill", 1, 8))
