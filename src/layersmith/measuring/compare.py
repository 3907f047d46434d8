"""`layersmith.measure`: one model, or a changed one beside its original, in one run on one machine.

Everything in the result was measured in the call: quality on held-out text, cost at every stated shape, latency
interleaved with the original's, and what both write.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from layersmith.anatomy.limits import longest_input
from layersmith.anatomy.running import borrowed, check_module
from layersmith.anatomy.twin import copied
from layersmith.data.examples import Reader
from layersmith.errors import UserError
from layersmith.kinds import check_kinds
from layersmith.measuring.cost import model_cost
from layersmith.measuring.divergence import Batch, first_run
from layersmith.measuring.environment import environment
from layersmith.measuring.generation import agreement, continuations, room
from layersmith.measuring.harness import scores
from layersmith.measuring.inputs import check_memory, config_of, example_inputs, is_causal_lm, placement
from layersmith.measuring.latency import model_latency, ratio
from layersmith.measuring.quality import Quality, quality
from layersmith.measuring.shape import Shape, parse_shape
from layersmith.measuring.token_bytes import token_bytes
from layersmith.measuring.zeroshot import check_writes, read_questions, zeroshot
from layersmith.names import check_seed

SCHEMA = "layersmith.measure/1"
#: `data=RANDOM`: seeded random inputs, the only ones there are for a model that takes no text.
RANDOM = "random"
#: Tokens of a prompt, and of its continuation, in the generation check; and how many prompts.
PROMPT_TOKENS, NEW_TOKENS, PROMPTS = 32, 32, 3
#: The measures of `Quality` that need an original.
DIFFERENCES = ("divergence", "divergence_kind", "agreement", "cosine_distance")


@dataclass(frozen=True)
class Measurement:
    """What `measure` found; `found["key"]` reads an entry as `to_json` names it (docs/result.md).

    environment   where and with what it was measured       settings    how
    model, against   facts of each model; against is None when there was none
    comparison    how the model differs from `against`; None when there was none
    """

    environment: dict[str, Any]
    settings: dict[str, Any]
    model: dict[str, Any]
    against: dict[str, Any] | None
    comparison: dict[str, Any] | None

    def __getitem__(self, key: str) -> Any:
        return self.to_json()[key]

    def to_json(self) -> dict[str, Any]:
        """The document that `layersmith measure --json` prints."""
        return {"schema": SCHEMA, **vars(self)}


def measure(
    model: nn.Module,
    against: nn.Module | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    data: str | os.PathLike[str] = "stdlib",
    text_column: str | None = None,
    at: str | Sequence[str] = "prefill=1x512",
    windows: int = 16,
    length: int = 512,
    rounds: int = 20,
    questions: str | None = None,
    tasks: list[str] | None = None,
    task_limit: int | None = None,
    seed: int = 0,
) -> Measurement:
    """Measure `model`, and how it differs from `against` (the original) when given.

    tokenizer  needed by models of text, unless `data` is "random"
    data       "stdlib", a text file, table or folder, "hub:owner/name" (the held-out split is read), or "random"; a
               folder of pictures or sound for models of these ("stdlib": a small embedded set)
    text_column  of a table or Hub data set, "source,target" for pairs; None takes "text" or the only column of text
    at         one shape or several: "prefill=1x512", ["prefill=1x512", "decode=1x128"]
    windows    of text, or as many tokens in other rows, that quality is measured on
    length     tokens per window; fewer where the model's context is shorter
    rounds     of interleaved timing
    questions  a JSONL file of multiple-choice questions (see `measure.zeroshot`)
    tasks      of lm-evaluation-harness, by name or as .yaml files, with `task_limit` examples each (None: all)

    The models are left as they were. Of the document, "model" and "against" hold params, bytes, perplexity,
    bits_per_byte, zeroshot, tasks, samples and, for each shape under "at", latency_ms, latency_ms_spread (p25, p75),
    flops and kv_bytes. "comparison" holds divergence (with its kind), agreement, cosine_distance, greedy_agreement and
    latency_ratio per shape. What does not exist for a model, or was not asked for, is None.

    Raises UserError for a missing tokenizer, too little text, an impossible shape, or a model that yields NaN.
    """
    for given in (model, *(() if against is None else (against,))):
        check_module(given)
    check_kinds(measure, locals())
    for what, number in (("windows", windows), ("length", length), ("rounds", rounds)):
        if number < 1:
            raise UserError(f"{what} must be at least 1, not {number}.")
    check_seed(seed)
    shapes = [parse_shape(text) for text in ([at] if isinstance(at, str) else at)]
    data = os.fspath(data) if config_of(model) is not None else RANDOM
    for shape in shapes:
        check_memory(model, shape.batch, shape.tokens)
    with borrowed(model), borrowed(model if against is None else against):
        return _measured(
            model,
            against,
            tokenizer,
            data=data,
            text_column=text_column,
            shapes=shapes,
            size=(windows, length),
            rounds=rounds,
            questions=questions,
            tasks=(tasks or [], task_limit),
            seed=seed,
        )


def _measured(
    model: nn.Module,
    against: nn.Module | None,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    data: str,
    text_column: str | None,
    shapes: list[Shape],
    size: tuple[int, int],
    rounds: int,
    questions: str | None,
    tasks: tuple[list[str], int | None],
    seed: int,
) -> Measurement:
    models = {"model": model} | ({"against": against} if against is not None else {})
    parsed = None if questions is None else read_questions(questions)
    if parsed is not None:
        check_writes(models.values())
    count, length = size
    length = min(length, longest_input(model) or length)
    batches, told = _batches(model, tokenizer, data, (count, length), text_column, seed)
    for each in models.values():
        first_run(each, {name: tensor.to(placement(each)[0]) for name, tensor in batches[0].items()})
    writes = data != RANDOM and is_causal_lm(model)
    sizes = token_bytes(_required(tokenizer)) if writes else None
    found = {"model": quality(model, batches, against, sizes)}
    if against is not None:
        found["against"] = quality(against, batches, None, sizes)
    facts = {name: _facts(each, found[name], shapes, writes) for name, each in models.items()}
    ratios = _time(models, shapes, rounds, seed, facts)
    greedy = _write(models, batches, _required(tokenizer), facts) if writes else None
    if parsed is not None:
        for name, each in models.items():
            facts[name]["zeroshot"] = zeroshot(each, _required(tokenizer), parsed)
    if tasks[0]:
        for name, each in models.items():
            facts[name]["tasks"] = scores(each, _required(tokenizer), *tasks)

    comparison = None
    if against is not None:
        comparison = {k: v for k, v in found["model"].to_json().items() if k in DIFFERENCES}
        comparison |= {"greedy_agreement": greedy, "latency_ratio": ratios}
    return Measurement(
        environment=environment(placement(model)[0]),
        settings={
            "at": [str(shape) for shape in shapes],
            "data": data,
            "tokens": found["model"].tokens,
            "length": length,
            "rounds": rounds,
            "seed": seed,
            **told,
        },
        model=facts["model"],
        against=facts.get("against"),
        comparison=comparison,
    )


def _facts(model: nn.Module, found: Quality, shapes: list[Shape], writes: bool) -> dict[str, Any]:
    """What is known of one model alone; latency, samples and scores are filled in by their own steps."""
    costs = {str(shape): model_cost(model, shape) for shape in shapes}
    first = next(iter(costs.values()))
    return {
        "architecture": type(model).__name__,
        "params": first.params,
        "bytes": first.weight_bytes,
        "at": {at: {"flops": cost.flops, "kv_bytes": cost.state_bytes} for at, cost in costs.items()},
        "perplexity": found.perplexity if writes else None,
        "bits_per_byte": found.bits_per_byte if writes else None,
        "zeroshot": None,
        "tasks": None,
        "samples": None,
    }


def _time(
    models: dict[str, nn.Module], shapes: list[Shape], rounds: int, seed: int, facts: dict[str, dict[str, Any]]
) -> dict[str, float] | None:
    """Fill in every model's latency; returns model / against per shape.

    Of two models copies are timed, that share their tensors: one of them was often copied from the other
    (`anatomy.twin` says what that does).
    """
    ratios = {}
    timed = _copies(models) if len(models) > 1 else models
    for shape in shapes:
        timings = model_latency(timed, shape, rounds=rounds, seed=seed)
        for name, timing in timings.items():
            facts[name]["at"][str(shape)] |= {
                "latency_ms": timing.median * 1e3,
                "latency_ms_spread": [timing.p25 * 1e3, timing.p75 * 1e3],
            }
        if "against" in timings:
            ratios[str(shape)] = ratio(timings, "model", "against")
    return ratios or None


def _copies(models: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """A copy of each; where one of them cannot be copied all as they are, for copies are timed against copies."""
    try:
        return {name: copied(model) for name, model in models.items()}
    except Exception:  # whatever somebody's class raises about being copied
        return models


def _write(
    models: dict[str, nn.Module],
    batches: list[Batch],
    tokenizer: PreTrainedTokenizerBase,
    facts: dict[str, dict[str, Any]],
) -> float | None:
    """Fill in what every model writes after the first prompts; returns the share of equal tokens."""
    length, tokens = room(models["model"], PROMPT_TOKENS, NEW_TOKENS)
    prompts = torch.cat([batch["input_ids"] for batch in batches])[:PROMPTS, :length]
    written = {name: continuations(model, prompts, tokens) for name, model in models.items()}
    starts = tokenizer.batch_decode(prompts)
    for name, rows in written.items():
        texts = tokenizer.batch_decode(rows)
        facts[name]["samples"] = [{"prompt": p, "text": t} for p, t in zip(starts, texts, strict=True)]
    return agreement(written["model"], written["against"]) if "against" in written else None


def _batches(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    data: str,
    size: tuple[int, int],
    text_column: str | None,
    seed: int,
) -> tuple[list[Batch], dict[str, str]]:
    """About one window's tokens per batch, so that memory does not depend on how many; and in words what they are."""
    count, length = size
    if data == RANDOM:
        return [example_inputs(model, 1, length, seed + index) for index in range(count)], {}
    reader = Reader(model, tokenizer, data, length=length, text_column=text_column, seed=seed)
    examples = reader.read("heldout", count * length)
    if not examples:
        raise UserError(
            f"{data!r} holds too little text to measure on: not one row of {length} tokens in its held-out part. Give "
            "more text, or shorter windows (length=...)."
        )
    return [*reader.batched(examples, length)], dict(reader.facts)


def _required(tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    if tokenizer is None:
        raise UserError(
            "The model came without a tokenizer, so no text can be read to it. Put the tokenizer's files beside the "
            "model or pass tokenizer=..., or compare on random tokens with data='random'."
        )
    return tokenizer
