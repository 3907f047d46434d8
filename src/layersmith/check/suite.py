"""Runs every check on one part: `check("glu")`, or `check("my_package.parts:MyFFN", {"d_model": 64, "d_hidden": 128})`.

A part may raise anything; whatever it raises inside a check is that check's failure, and the next check runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from layersmith import catalogue
from layersmith.check import (
    compile,
    cost,
    errors,
    gradients,
    leaks,
    precision,
    repeat,
    saving,
    schemes,
    shapes,
    streaming,
)
from layersmith.check.applies import why_not
from layersmith.check.schemes import SchemeSubject
from layersmith.check.subject import Failed, Subject
from layersmith.contract import Operator, Scheme
from layersmith.errors import UserError

#: In the order of the report: what a part is, then what it computes, then what it costs and refuses.
CHECKS: dict[str, Callable[[Subject], str]] = {
    function.__name__: function
    for function in (
        shapes.shapes,
        shapes.dtypes,
        shapes.odd_lengths,
        shapes.no_tokens,
        shapes.input_untouched,
        gradients.gradient_reaches_parameters,
        gradients.gradient_is_true,
        leaks.token_wise,
        leaks.causal,
        leaks.batch_invariance,
        leaks.padding_invariance,
        streaming.chunked,
        streaming.step_by_step,
        streaming.padded_decode,
        streaming.state_rows,
        streaming.state_bytes,
        streaming.refuses_state,
        compile.compiles,
        precision.bfloat16,
        precision.autocast,
        saving.plain_constructor,
        saving.state_dict_round_trip,
        saving.safetensors_round_trip,
        saving.spec_round_trip,
        saving.deep_copy,
        repeat.deterministic,
        repeat.no_uninitialised_memory,
        cost.parameters_counted,
        cost.flops_counted,
        cost.active_parameters,
        errors.refuses_bad_sizes,
        errors.refuses_unknown_choices,
        errors.refuses_what_json_cannot_hold,
    )
}

#: The same for schemes, which are not modules: what they leave behind, and what they promise.
SCHEME_CHECKS: dict[str, Callable[[SchemeSubject], str]] = {
    function.__name__: function
    for function in (
        schemes.plain_constructor,
        schemes.spec_round_trip,
        schemes.refuses_bad_config,
        schemes.deterministic,
        schemes.saves,
        schemes.generates,
        schemes.learning_rates,
        schemes.keeps_its_promise,
    )
}


@dataclass(frozen=True)
class Result:
    """The outcome of one check. A check that does not apply counts as passed and says why in `skipped_reason`."""

    check: str
    passed: bool
    detail: str
    skipped_reason: str | None = None


def checks_for(part: type[Operator] | type[Scheme] | str) -> dict[str, Callable[..., str]]:
    """The checks of a part's family by name: `SCHEME_CHECKS` for a scheme, `CHECKS` for everything else."""
    if isinstance(part, str) and ":" not in part:
        return SCHEME_CHECKS if catalogue.entry(part).family == Scheme.family else CHECKS
    cls = catalogue.resolve(part, trust_remote_code=True) if isinstance(part, str) else part
    return SCHEME_CHECKS if issubclass(cls, Scheme) else CHECKS


def check(
    part: type[Operator] | type[Scheme] | str,
    config: dict[str, Any] | None = None,
    only: tuple[str, ...] | None = None,
    backend: str = "aot_eager",
) -> list[Result]:
    """The results of all checks (or of `only` those named) for a part: a class, a catalogue name or "pkg.mod:Class".

    config    constructor arguments; by default the catalogue's example, or the smallest that the part accepts
    backend   of torch.compile: "aot_eager", or "inductor" to test generated code as well
    Raises UserError when the part or its configuration cannot be had. Naming "pkg.mod:Class" imports that code.
    """
    cls = catalogue.resolve(part, trust_remote_code=True) if isinstance(part, str) else part
    if config is None:
        config = default_config(part)
    checks = checks_for(cls)
    subject: Any = SchemeSubject(cls, config) if issubclass(cls, Scheme) else Subject(cls, config, backend)
    with torch.random.fork_rng():
        try:
            built = subject.build()
        except (ValueError, TypeError) as refused:
            raise UserError(f"{cls.__name__} cannot be built with {config}: {refused}") from refused
    return [_run(name, checks[name], subject, why_not(name, built)) for name in only or checks]


def applicable(part: str) -> list[str]:
    """The checks that say something about a part of the catalogue, in the order of `checks_for`."""
    cls, example = catalogue.resolve(part), default_config(part)
    with torch.random.fork_rng():
        built = cls(**example)
    return [name for name in checks_for(cls) if why_not(name, built) is None]


def default_config(part: type[Operator] | type[Scheme] | str) -> dict[str, Any]:
    """The catalogue's example config, or {"d_model": 32} for a class of the user's; UserError if that is too little."""
    if isinstance(part, str) and ":" not in part:
        return dict(catalogue.entry(part).example)
    cls = catalogue.resolve(part, trust_remote_code=True) if isinstance(part, str) else part
    if issubclass(cls, Scheme):
        return {}
    config = {"d_in": 32, "d_out": 48} if cls.family == "linear" else {"d_model": 32}
    required = [
        p.name
        for p in inspect.signature(cls.__init__).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name != "self"
    ]
    missing = [name for name in required if name not in config]
    if missing:
        raise UserError(
            f"{cls.__name__} needs a value for {', '.join(missing)}. Give its configuration as JSON, small enough to "
            f'test quickly: --config \'{{"{next(iter(config))}": 32, "{missing[0]}": …}}\'.'
        )
    return config


def _run(name: str, function: Callable[[Any], str], subject: Any, does_not_apply: str | None) -> Result:
    if does_not_apply is not None:
        return Result(name, True, "", skipped_reason=does_not_apply)
    # Checks set seeds; the caller's random numbers go on as if nothing had happened.
    with torch.random.fork_rng():
        try:
            return Result(name, True, function(subject))
        except Failed as finding:
            return Result(name, False, str(finding))
        except Exception as raised:
            text = " ".join(str(raised).split())
            return Result(name, False, f"raised {type(raised).__name__}: {text[:300]}")
