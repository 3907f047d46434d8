"""The residual graph of a model: who writes what into the stream, and who reads it.

Writers are the embedding (what enters the first block), every attention head, every other mixer, every feed-forward.
Readers are what each of these reads, of a head its q, k and v apart, and last the logits. An edge (writer, reader) is
what the writer adds to the stream that this reader sees:

    x_r = sum_w  y_w          edges that are kept
        + sum_w  y'_w         edges that are not: what w gives on the corrupt prompts, its mean there, or nothing

Norms, feed-forwards, mixers that are no softmax attention and what follows the last block are run by the model's own
modules. So the graph works on every architecture whose sublayers add to one stream, and says why where they do not
(`NoSum`). That it computes what the model computes is tried out.

Shapes: B pairs, T tokens, D width, W writers, R readers, K circuits run at once; `keep` is (K, W, R) bool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.anatomy import Anatomy, Replay, original
from layersmith.anatomy.replay import Captured
from layersmith.anatomy.running import evaluating, plainly
from layersmith.anatomy.stream import NoSum, Step, steps_of
from layersmith.explaining.circuits.heads import PARTS, Heads
from layersmith.explaining.circuits.prompts import Prompts
from layersmith.explaining.recognised import attention_at
from layersmith.measuring.divergence import main_output, run

#: Relative error of the graph's logits up to which it counts as the model.
TOLERANCE = 1e-3
#: Values that what circuits run at once write may hold.
HELD = 2**25

#: Site -> how the model calls it on one batch of prompts.
Calls = dict[str, Captured]
Body = Callable[[Tensor, Calls, Sequence[int]], Tensor]


@dataclass(frozen=True)
class Stage:
    """One sublayer: `body` (R, N, T, D) -> (W, N, T, D) from its readers' streams to what it writes.

    body              is also told which of its nodes are run: streams of their readers are given, in their order
    readers, writers  its own, among all; reader r is one of the writer r modulo the number of writers
    known             it sees what the first `known` writers wrote
    biases            biases (D,) that the stream holds besides; None: none
    """

    body: Body
    readers: range
    writers: range
    known: int
    biases: Tensor | None


@dataclass(frozen=True)
class Case:
    """One batch of prompts on the graph.

    written  (W, B, T, D): what every writer writes on the clean prompts
    off      (W, B, T, D): what is read over an edge that is not kept
    """

    prompts: Prompts
    written: Tensor
    off: Tensor
    calls: Calls


class Graph:
    """The residual graph. `writers` and `readers` are names, `readers[-1]` the logits; NoSum where there is none."""

    def __init__(self, model: Any, anatomy: Anatomy, replay: Replay, prompts: Prompts):
        self.model, self.replay = model, replay
        self.writers, self.readers = ["embed"], list[str]()
        self.stages: list[Stage] = []
        self._called: dict[str, str] = {}  # site that its module runs -> path of the module
        biases: Tensor | None = None
        for steps in steps_of(replay, anatomy, prompts.clean):
            biases = self._add_block(steps, biases)
        last = range(len(self.readers), len(self.readers) + 1)
        self.readers.append("logits")
        self.stages.append(Stage(lambda x, calls, nodes: x, last, range(0), len(self.writers), biases))
        self._prove(prompts)

    @property
    def edges(self) -> Tensor:
        """(W, R) bool: which edges there are."""
        found = torch.zeros(len(self.writers), len(self.readers), dtype=torch.bool)
        for stage in self.stages:
            found[: stage.known, stage.readers.start : stage.readers.stop] = True
        return found

    @property
    def nodes(self) -> list[list[str]]:
        """The embedding, the nodes of every sublayer (heads, or itself), the logits: as they run."""
        inner = [self.writers[stage.writers.start : stage.writers.stop] for stage in self.stages[:-1]]
        return [["embed"], *inner, ["logits"]]

    @torch.no_grad()
    def case(self, prompts: Prompts, ablation: str) -> Case:
        """The prompts with what an edge carries that is taken away: "resample", "mean" or "zero"."""
        clean, calls = self._entering(prompts.clean)
        written = self._written(clean, calls)
        if ablation == "zero":
            return Case(prompts, written, torch.zeros_like(written), calls)
        corrupt, theirs = self._entering(prompts.corrupt)
        off = self._written(corrupt, theirs)
        if ablation == "mean":
            off = off.mean(1, keepdim=True).expand_as(off)
        return Case(prompts, written, off, calls)

    @torch.no_grad()
    def run(self, case: Case, keep: Tensor, start: int = 0) -> Tensor:
        """The log-probabilities (K, B, V) at the answer of K circuits, which differ from stage `start` on alone."""
        before = self.stages[start].writers.start if self.stages[start].writers else len(self.writers)
        keep = keep.to(case.off)
        own: list[tuple[range, Tensor]] = []
        known = case.written[:before] - case.off[:before]
        x = y = known
        for stage in self.stages[start:]:
            at, seen = slice(stage.readers.start, stage.readers.stop), min(before, stage.known)
            x = torch.einsum("kwr,wbtd->rkbtd", keep[:, :seen, at], known[:seen])
            for rows, moved in own:
                if rows.stop <= stage.known:
                    x = x + torch.einsum("kwr,wkbtd->rkbtd", keep[:, rows.start : rows.stop, at], moved)
            x = biased(x + case.off[: stage.known].sum(0), stage)
            y = all_of(stage, x.flatten(1, 2), case.calls).unflatten(1, x.shape[1:3])
            own.append((stage.writers, y - case.off[stage.writers.start : stage.writers.stop, None]))
        return self.answers(x[0], case.prompts.where).log_softmax(-1)

    def gradients(self, case: Case, share: float) -> Tensor:
        """d (mean log-odds) / d (what each reader sees), (R, B, T, D), on the way between the two prompts.

        share  what enters the first block is `share` of the clean prompt and the rest of what is put for it
        """
        with plainly(self.model), torch.enable_grad():
            total = (case.off[0] + share * (case.written[0] - case.off[0])).detach().requires_grad_()
            sums, read = {1: total}, []
            for stage in self.stages:
                x = biased(sums[stage.known], stage)
                read.append(x.expand(len(stage.readers), *x.shape) + 0.0)  # a tensor of their own to derive by
                if stage.writers:
                    total = total + all_of(stage, read[-1], case.calls).sum(0)
                    sums[stage.writers.stop] = total
            odds = case.prompts.log_odds(self.answers(read[-1][0], case.prompts.where)).mean()
            return torch.cat(torch.autograd.grad(odds, read))

    def at_once(self, case: Case) -> int:
        """How many circuits to run at once on these prompts."""
        return max(1, HELD // case.written.numel())

    def _entering(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Calls]:
        """What enters the first block, (B, T, D), and how the sublayers are called that the model's modules run."""
        paths = sorted({self.replay.blocks[0], *self._called.values()})
        with evaluating(self.model):
            calls = self.replay.calls_of(inputs, paths)
        return calls[self.replay.blocks[0]][0].input, {site: calls[path][0] for site, path in self._called.items()}

    def _written(self, embed: Tensor, calls: Calls) -> Tensor:
        """What every writer writes, (W, B, T, D), when `embed` (B, T, D) enters the first block."""
        parts, total, sums = [embed[None]], embed, {1: embed}
        for stage in self.stages[:-1]:
            x = biased(sums[stage.known], stage)
            parts.append(all_of(stage, x.expand(len(stage.readers), *x.shape), calls))
            total = total + parts[-1].sum(0)
            sums[stage.writers.stop] = total
        return torch.cat(parts)

    def answers(self, stream: Tensor, where: Tensor) -> Tensor:
        """What leaves the last block, (..., B, T, D), and positions (B,) -> the model's answers there, (..., B, V)."""
        rows = stream[..., torch.arange(len(where), device=stream.device), where, :]
        flat = rows.flatten(0, -2)[:, None]
        ids = torch.zeros(len(flat), 1, dtype=torch.long, device=stream.device)
        with plainly(self.model):
            found = main_output(self.replay.run_from(self.replay.n_blocks, flat, {"input_ids": ids}))
        return found[:, 0].unflatten(0, rows.shape[:-1])

    def _prove(self, prompts: Prompts) -> None:
        with torch.no_grad():
            embed, calls = self._entering(prompts.clean)
            stream = biased(self._written(embed, calls).sum(0), self.stages[-1])
            found = self.answers(stream, prompts.where)
        with evaluating(self.model):
            expected = prompts.at_answer(main_output(run(self.model, prompts.clean)))
        if float((found - expected).norm()) > TOLERANCE * float(expected.norm()):
            raise NoSum("what its sublayers write, put together, does not give its answers")

    def _add_block(self, steps: list[Step], biases: Tensor | None) -> Tensor | None:
        """Add the sublayers of one block; the biases in the stream before it -> those after it."""
        seen = [(len(self.writers), biases)]
        for step in steps:
            if step.closing:
                raise NoSum(f"{step.site.name} writes to a stream that is normed as a whole (Post-LN)")
            body, writers, readers, bias = self._sublayer(step)
            first, at = len(self.readers), len(self.writers)
            self.writers += writers
            self.readers += readers
            known, before = seen[step.sees]
            rows, own = range(first, len(self.readers)), range(at, len(self.writers))
            self.stages.append(Stage(body, rows, own, known, before))
            if bias is not None and bias.abs().max() > 0:
                biases = bias if biases is None else biases + bias
            seen.append((len(self.writers), biases))
        return biases

    def _sublayer(self, step: Step) -> tuple[Body, list[str], list[str], Tensor | None]:
        """The sublayer as a function of its streams, the names of what it writes and of what it reads, its biases."""
        name = step.site.name
        norm = self.model.get_submodule(step.norm) if step.norm else None
        post = self.model.get_submodule(step.post) if step.post else None
        attention = attention_at(self.model, step.site) if step.site.kind == "mixer" and post is None else None
        if attention is not None:
            heads = Heads(attention)
            writers = [f"{name}.h{head}" for head in range(heads.heads)] if heads.heads > 1 else [name]
            readers = [f"{writer}.{part}" for part in PARTS for writer in writers]
            return lambda x, calls, nodes: heads(_token_wise(norm, x), nodes), writers, readers, heads.bias
        self._called[name] = step.site.modules[0]
        module, mixes = original(self.model, step.site), step.site.kind == "mixer"

        def body(x: Tensor, calls: Calls, nodes: Sequence[int]) -> Tensor:
            read = _token_wise(norm, x)[0]
            groups = read.split(len(calls[name].input)) if mixes else [read]
            written = torch.cat([_again(module, calls[name], rows) for rows in groups])
            return _token_wise(post, written.reshape(1, *read.shape))

        return body, [name], [name], None


def all_of(stage: Stage, x: Tensor, calls: Calls) -> Tensor:
    """What all nodes of the stage write, (W, N, T, D), for the streams of all its readers."""
    return stage.body(x, calls, range(len(stage.writers)))


def biased(x: Tensor, stage: Stage) -> Tensor:
    """What a reader of the stage sees, with the biases that no edge carries."""
    return x if stage.biases is None else x + stage.biases


def _token_wise(norm: nn.Module | None, x: Tensor) -> Tensor:
    """The norm on (R, N, T, D), in the three dimensions that modules of a model expect."""
    return x if norm is None else norm(x.flatten(0, 1)).reshape(x.shape)


def _again(module: nn.Module, call: Captured, x: Tensor) -> Tensor:
    """What the module gives for other hidden states in the same call."""
    old = call.input
    args = tuple(x if a is old else a for a in call.args)
    output = module(*args, **{key: x if a is old else a for key, a in call.kwargs.items()})
    return output[0] if isinstance(output, tuple | list) else output
