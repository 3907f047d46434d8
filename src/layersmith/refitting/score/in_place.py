"""What a sublayer takes while one token after another is written, measured where it stands.

Timed alone, again and again, a sublayer finds its weights in the processor's cache, where they never are when a whole
model runs between two of its calls; and reading weights is most of what a decode step does. So there an original is
timed by a watch around it inside whole steps, and an alternative by what whole steps gain with it in place:

    time(alternative) = time(original) + median over rounds of (step with n of them - step of the original) / n

n is the number of sites at which there is one that looks alike, `MOST_SITES` of them at most. Both steps take turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from layersmith.anatomy.twin import twin
from layersmith.measuring.cache import rewinder, share_tensors
from layersmith.measuring.cost import Prompt, read
from layersmith.measuring.latency import Step, latency, waiter
from layersmith.measuring.shape import Shape
from layersmith.refitting.candidate import Candidate, Library, disjoint

#: Alternatives put in place together: more make their gain clearer, and take memory.
MOST_SITES = 16


@torch.no_grad()
def seconds_inside(
    model: nn.Module, paths: Iterable[str], step: Mapping[str, Any], rounds: int, device: torch.device | str
) -> dict[str, float]:
    """Seconds that the module at each path takes in one step of the model, over all its calls: the median over rounds.

    step   the model's keyword arguments
    """
    watched = twin(model)  # so that nobody else's model has hooks
    spent: dict[str, float] = {}
    since: dict[str, float] = {}
    wait = waiter(torch.device(device))

    def enters(path: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            wait()
            since[path] = time.perf_counter()

        return hook

    def leaves(path: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            wait()
            spent[path] = spent.get(path, 0.0) + time.perf_counter() - since[path]

        return hook

    for path in paths:
        module = watched.get_submodule(path)
        module.register_forward_pre_hook(enters(path))
        module.register_forward_hook(leaves(path))
    once = Step(lambda: watched(**step), rewinder(step))
    samples: list[dict[str, float]] = []
    for _ in range(2 + rounds):
        spent = {}
        once()
        samples.append(spent)
    return {path: statistics.median(sample.get(path, 0.0) for sample in samples[2:]) for path in samples[-1]}


class Gains:
    """How much longer, or less, a step takes for each candidate in place of what stood there.

    model, prompt  the original and its step after a prompt; all caches share the tensors of that one
    """

    def __init__(self, model: nn.Module, shape: Shape, prompt: Prompt, library: Library):
        self.model, self.shape, self.built = twin(model), shape, library  # a copy, as the changed ones are
        self.prompt = read(self.model, shape)
        share_tensors(self.prompt.step, prompt.step)

    def seconds(self, alike: Sequence[Candidate], rounds: int, device: torch.device | str) -> float:
        """Seconds by which one of the candidates, which look alike, changes the time of a step."""
        placed = disjoint(alike)[:MOST_SITES]
        edited = twin(self.model, [pair for candidate in placed for pair in self.built.replacement(candidate)])
        prompt = read(edited, self.shape)
        share_tensors(prompt.step, self.prompt.step)
        steps = {
            "original": Step(lambda: self.model(**self.prompt.step), rewinder(self.prompt.step)),
            "changed": Step(lambda: edited(**prompt.step), rewinder(prompt.step)),
        }
        timings = latency(steps, rounds=rounds, warmup=2, device=device)
        pairs = zip(timings["changed"].samples, timings["original"].samples, strict=True)
        return statistics.median(changed - original for changed, original in pairs) / len(placed)
