"""Causal tracing: which feed-forward brings a fact back when its subject has been made unreadable.

The embeddings of the subject's tokens get Gaussian noise, three times as wide as embeddings of subjects are spread;
then one feed-forward's outputs at these tokens are put back to what they were without noise:

    effect = P(right answer | noise, one output restored) - P(right answer | noise)

P is among the choices, the mean over the facts and over a few draws of noise.

Paper: arXiv 2504.12996, "SHA256 at SemEval-2025 Task 4" (the tracing is that of Meng et al. 2022, "Locating and Editing
Factual Associations in GPT"; confirmed in the released code: the noise and its width).
Differs from the paper: one feed-forward is restored (there ten neighbouring ones), at all tokens of the subject at once
(there at every token of the prompt by itself); P is among the choices (there among all tokens); noise is drawn four
times (there ten).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from layersmith.anatomy import Site
from layersmith.explaining.forgetting.facts import SUBJECT, Facts

#: Width of the noise in standard deviations of the embeddings, and draws of it.
NOISE, DRAWS = 3.0, 4


@torch.no_grad()
def effects(
    model: Any, sites: Sequence[Site], facts: Facts, which: slice, seed: int, tell: Callable[[str, int, int], None]
) -> dict[str, float]:
    """Site -> effect; "clean" and "noise" -> P of the right answer without noise, and with it."""
    paths = [site.modules[-1] for site in sites]
    with _recording(model, paths) as clean:
        found = {"clean": _right(model, facts, which)}
    sums = dict.fromkeys(["noise", *(site.name for site in sites)], 0.0)
    for draw in range(DRAWS):
        with _noisy(model, facts, which, seed + draw):
            sums["noise"] += _right(model, facts, which) / DRAWS
            for site, path in zip(sites, paths, strict=True):
                with _restored(model, path, clean[path]):
                    sums[site.name] += _right(model, facts, which) / DRAWS
        tell("tracing where the facts are", draw + 1, DRAWS)
    found["noise"] = sums["noise"]
    return found | {site.name: sums[site.name] - sums["noise"] for site in sites}


def prefix(effects: Sequence[float], share: float) -> int:
    """How many of the first layers hold that share of all positive effects; at least one."""
    gains = [max(0.0, effect) for effect in effects]
    held = 0.0
    for number, gain in enumerate(gains, start=1):
        held += gain
        if held >= share * sum(gains) and held > 0:
            return number
    return len(gains)


def _right(model: Any, facts: Facts, which: slice) -> float:
    log_odds = facts.log_odds(model, which)
    return float(log_odds.gather(1, facts.answers[which][:, None]).exp().double().mean())


def _tensor(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple | list) else output
    return found


class _recording(dict[str, Tensor]):
    """Context: path -> what the module there gave at the subject's tokens."""

    def __init__(self, model: Any, paths: Sequence[str]):
        super().__init__()
        self.model, self.paths, self.undo = model, paths, ExitStack()

    def __enter__(self) -> _recording:
        for path in self.paths:
            hook = self.model.get_submodule(path).register_forward_hook(self._keeper(path))
            self.undo.callback(hook.remove)
        return self

    def __exit__(self, *error: object) -> None:
        self.undo.close()

    def _keeper(self, path: str) -> Callable[[Any, Any, Any], None]:
        def keep(module: Any, args: Any, output: Any) -> None:
            self[path] = _tensor(output)[:, :SUBJECT].clone()

        return keep


class _hooked:
    """Context: what a module gives is changed by `change`, which gets a copy of it and works in place."""

    def __init__(self, model: Any, module: Any, change: Callable[[Tensor], None]):
        def hook(module: Any, args: Any, output: Any) -> Any:
            new = _tensor(output).clone()
            change(new)
            return type(output)((new, *output[1:])) if isinstance(output, tuple | list) else new

        self._module, self._hook = module, hook

    def __enter__(self) -> None:
        self._handle = self._module.register_forward_hook(self._hook)

    def __exit__(self, *error: object) -> None:
        self._handle.remove()


def _restored(model: Any, path: str, kept: Tensor) -> _hooked:
    def restore(output: Tensor) -> None:
        output[:, :SUBJECT] = kept

    return _hooked(model, model.get_submodule(path), restore)


def _noisy(model: Any, facts: Facts, which: slice, seed: int) -> _hooked:
    table = model.get_input_embeddings()
    subjects = facts.prompts[which, :SUBJECT]
    with torch.no_grad():  # of what it gives, which some models scale, as that is what the noise is added to
        width = NOISE * float(table(subjects).float().std())
    shape = (*subjects.shape, table.weight.shape[1])
    noise = width * torch.randn(shape, generator=torch.Generator().manual_seed(seed), device="cpu")

    def spoil(output: Tensor) -> None:
        output[:, :SUBJECT] += noise.to(output)

    return _hooked(model, table, spoil)
