"""Latency on a noisy machine: what is compared takes turns, and ratios are formed inside each turn.

Timing A for a minute and then B for a minute measures the machine's mood. Here every round times each step once, in
an order shuffled per round, and `ratio` compares only samples of the same round. All times are in seconds.

Turns have to be alike, too: tensors that two of three models share are in the processor's cache more often than those
of the third, which costs it 2 to 5 % where a model fits in there. Models of that size are compared in pairs.
"""

from __future__ import annotations

import inspect
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from layersmith.errors import UserError
from layersmith.measuring.cache import cache_of, rewinder
from layersmith.measuring.inputs import can_generate, check_length, config_of, example_inputs, placement, without_cache
from layersmith.measuring.shape import Shape


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Step:
    """Something to time: `run` is timed, `before` (putting a cache back, say) is not."""

    run: Callable[[], object]
    before: Callable[[], object] = _nothing

    def __call__(self) -> object:
        self.before()
        return self.run()


@dataclass(frozen=True)
class Timing:
    """Seconds per call: median and quartiles over `n` rounds, and the samples themselves in round order."""

    median: float
    p25: float
    p75: float
    n: int
    samples: tuple[float, ...]


def latency(
    callables: Mapping[str, Step | Callable[[], object]],
    rounds: int = 20,
    warmup: int = 2,
    min_seconds: float = 0.0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time callables interleaved, without gradients.

    rounds       samples per callable
    warmup       untimed calls of each before the first round
    min_seconds  a sample is the mean of as many calls as last about this long together (for very short calls)
    seed         of the order within the rounds
    device       waited for before and after each call, so that queued work is counted
    clock        returns seconds; tests pass one of their own
    """
    if rounds < 1 or warmup < 1:
        raise UserError(f"latency needs at least one round and one warm-up call, not {rounds} and {warmup}.")
    wait = waiter(torch.device(device))
    steps = {name: step if isinstance(step, Step) else Step(step) for name, step in callables.items()}

    def once(step: Step) -> float:
        step.before()
        wait()
        start = clock()
        step.run()
        wait()
        return clock() - start

    samples: dict[str, list[float]] = {name: [] for name in steps}
    order, shuffler = list(steps), random.Random(seed)
    with torch.no_grad():
        repeats = {}
        for name, step in steps.items():
            fastest = min(once(step) for _ in range(warmup))
            repeats[name] = max(1, round(min_seconds / fastest)) if fastest > 0 else 1
        for _ in range(rounds):
            shuffler.shuffle(order)
            for name in order:
                samples[name].append(sum(once(steps[name]) for _ in range(repeats[name])) / repeats[name])
    return {name: _timing(taken) for name, taken in samples.items()}


def ratio(timings: Mapping[str, Timing], name: str, reference: str) -> float:
    """How many times as long as `reference` does `name` take? The median over rounds of the ratio within a round."""
    pairs = zip(timings[name].samples, timings[reference].samples, strict=True)
    return statistics.median(a / b for a, b in pairs)


def model_latency(
    models: Mapping[str, nn.Module], shape: Shape, rounds: int = 20, warmup: int = 2, seed: int = 0
) -> dict[str, Timing]:
    """Time whole models against each other at a shape, on the same inputs."""
    device, _ = placement(next(iter(models.values())))
    steps = {name: model_step(model, shape, seed) for name, model in models.items()}
    return latency(steps, rounds=rounds, warmup=warmup, seed=seed, device=device)


def model_step(model: nn.Module, shape: Shape, seed: int = 0) -> Step:
    """One step of a model at a shape, on seeded random inputs.

    prefill  one forward over (batch, tokens), without a cache
    decode   one forward of one token per sequence with `tokens` tokens in the cache. The prompt is read here, once,
             untimed; the cache is put back before each step, so every step starts from the same length.
    """
    inputs = model_inputs(model, shape, seed)
    return Step(run=lambda: model(**inputs), before=rewinder(inputs))


def model_inputs(model: nn.Module, shape: Shape, seed: int = 0) -> dict[str, Any]:
    """The keyword arguments of one step at a shape; a decode step's include the cache that holds the prompt."""
    if shape.phase == "decode":
        return after_prompt(model, shape, read_prompt(model, shape, seed), seed)
    return {**example_inputs(model, shape.batch, shape.tokens, seed), **without_cache(model)}


def read_prompt(model: nn.Module, shape: Shape, seed: int = 0) -> Any:
    """What the model returns for the shape's tokens when it is to go on after them: its cache among other things.

    Raises UserError for a model that does not write, or that has no place for one token more.
    """
    if not can_generate(model):
        raise UserError(
            f"{type(model).__name__} does not write tokens one by one, so it has no decode latency. Measure it at "
            f"'prefill={shape.batch}x{shape.tokens}'."
        )
    check_length(model, shape.tokens + (shape.phase == "decode"))
    inputs = {**example_inputs(model, shape.batch, shape.tokens, seed), "use_cache": True}
    with torch.no_grad():
        output = model(**inputs)
        if not cache_of(output) and "past_key_values" in inspect.signature(model.forward).parameters:
            # RecurrentGemma fills a cache that it is given, and neither makes one nor returns it.
            given = DynamicCache(config=config_of(model))
            output = model(**inputs, past_key_values=given)
            output.past_key_values = given
    return output


def after_prompt(model: nn.Module, shape: Shape, prompt: Any, seed: int = 0) -> dict[str, Any]:
    """The keyword arguments of the step after a prompt that was read (by `read_prompt` with the same seed)."""
    inputs = example_inputs(model, shape.batch, shape.tokens, seed)
    cache = cache_of(prompt)
    if not cache:
        raise UserError(
            f"{type(model).__name__} returns no cache, so one token after another cannot be measured. Measure it at "
            f"'prefill={shape.batch}x{shape.tokens}'."
        )
    step: dict[str, Any] = {**cache, "use_cache": True}
    if config_of(model).is_encoder_decoder:
        encoded = (prompt.encoder_last_hidden_state,)
        return step | {"encoder_outputs": encoded, "decoder_input_ids": inputs["decoder_input_ids"][:, -1:]}
    return step | {"input_ids": inputs["input_ids"][:, -1:]}


def _timing(samples: list[float]) -> Timing:
    quartiles = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
    p25, median, p75 = quartiles
    return Timing(median=median, p25=p25, p75=p75, n=len(samples), samples=tuple(samples))


def waiter(device: torch.device) -> Callable[[], None]:
    """Waits until the device has done all it was given; the CPU never queues."""
    if device.type == "cpu":
        return _nothing
    return lambda: torch.accelerator.synchronize(device)
