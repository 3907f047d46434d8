"""A feed-forward of pocket rewritten in rules that need no language model: is that worth more than leaving it out?

Paper: Paulo & Belrose 2025, "Partially Rewriting a Transformer in Natural Language", arXiv 2501.18838: a sparse
transcoder stands in place of an MLP, a language model predicts its latents from explanations in words, and what comes
of it costs about as much as no output at all. The paper's result is negative; this asks whether rules find the same.

Rules, fitted on one text and judged on another: a latent is what it was on average at the same token, at most at the
NAMED tokens that hold most of it ("named") or at all tokens ("1 read"), or after the same two ("2 read"). Each is put
into the model in three forms:
    expected    as it is: all latents, most of them far below what they are where they are active
    largest     the k largest of a token, as many as the transcoder has
    normalised  each latent's predictions replaced, in their order, by values of its true distribution; then the k
                largest: the paper's form, which the verdict is about
Beside them: the transcoder, its true latents normalised (what normalising alone costs), no latents at all (the
decoder's bias), no output, the mean output. Two controls: each latent with another one's rule, and random numbers.

    python benchmarks/claims/partial_rewrite.py

Writes two claims, partial_rewrite-transcoder (it recovers most of the loss) and partial_rewrite-rules (they do not).

Confirmed in the authors' code (EleutherAI/sae-auto-interp, nl_simulation): after the simulation the 32 largest latents
are kept, as many as the transcoder has. How they normalise is not in it; that is from memory of the paper.
Differs from the paper: rules for sentences, all places of a window where it patches the last, all latents at once where
it also rewrites a share of them, and a transcoder without the linear path that theirs has beside it. The token rules
are tables of thousands of numbers, and may know more than a sentence could say.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from latent_rules import contexts, expected, levels, named, normalised, only_largest
from record import save_claim

from layersmith import checkpoint
from layersmith.anatomy import Replay, find_sites, swap
from layersmith.data.examples import Reader
from layersmith.explaining.dictionaries.recipe import Recipe
from layersmith.explaining.dictionaries.train import shuffled, train
from layersmith.ffn.sparse_dictionary import SparseDictionary

PART, PAPER = "sparse_dictionary", "2501.18838"
LENGTH, FITTED, WINDOWS, AT_ONCE = 256, 65_536, 96, 8
EXPANSION, K, STEPS, SEEDS = 8, 32, 600, (0, 1, 2)
#: Tokens that a short rule names; tokens that the others read; how many examples the shorter rule counts for in them.
NAMED, READ, PRIOR = 10, (1, 2), 1.0
RULES = ("named", *(f"{read} read" for read in READ))
#: Of what leaving the sublayer out costs: below the first is most of it recovered, from the second on is about as much.
RECOVERED, AS_MUCH = 0.5, 0.8
RESAMPLES = 4000


def share(part: Tensor, whole: Tensor) -> tuple[float, float, float]:
    """mean(part) / mean(whole) of the same windows (W,), and where 95 % of resampled sets of windows have it."""
    drawn = torch.randint(len(part), (RESAMPLES, len(part)), generator=torch.Generator().manual_seed(0))
    found = (part[drawn].mean(1) / whole[drawn].mean(1)).double()
    low, high = torch.quantile(found, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(part.mean() / whole.mean()), low, high


class Given(nn.Module):
    """Stands in a sublayer's place and gives the outputs it was told, whatever it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs


@dataclass(frozen=True)
class Text:
    """Windows of text (W, T), what enters the site's block on them (W, T, D), and what enters and leaves the site."""

    ids: Tensor
    hidden: Tensor
    inputs: Tensor
    outputs: Tensor


class Subject:
    """pocket, one of its feed-forwards in the middle, text to fit to and text to judge on."""

    def __init__(self, fitted: int, held_out: int) -> None:
        self.model, tokenizer = checkpoint.load("pocket")
        self.model.float().eval().requires_grad_(False)
        self.anatomy = find_sites(self.model)
        self.replay = Replay(self.model, self.anatomy)
        sites = self.anatomy.of_kind("ffn")
        self.site = sites[len(sites) // 2]
        self.vocabulary = int(self.model.config.vocab_size)
        reader = Reader(self.model, tokenizer, "stdlib", length=LENGTH)
        self.fitted, self.held_out = self.read(reader, "train", fitted), self.read(reader, "heldout", held_out)

    @torch.no_grad()
    def read(self, reader: Reader, split: str, tokens: int) -> Text:
        block, (path,) = self.replay.blocks[self.site.layer], self.site.modules
        found = []
        for batch in reader.batched(reader.read(split, tokens), AT_ONCE * LENGTH):
            calls = self.replay.calls_of(batch, [block, path])
            (site,) = calls[path]
            found.append((batch["input_ids"], calls[block][0].input, site.input, site.hidden))
        return Text(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    @torch.no_grad()
    def losses(self, outputs: Tensor) -> Tensor:
        """(W,) nats per token of each held-out window, float64, with these outputs (W, T, D) in the site's place."""
        given, text, found = Given(), self.held_out, []
        parts = zip(*(t.split(AT_ONCE) for t in (text.ids, text.hidden, outputs)), strict=True)
        with swap(self.model, {self.site.name: given}, self.anatomy):
            for ids, hidden, given.outputs in parts:
                logits = self.replay.run_from(self.site.layer, hidden, {"input_ids": ids}).logits
                nats = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
                found.append(nats.view(len(ids), -1).double().mean(1))
        return torch.cat(found)


@torch.no_grad()
def codes_of(dictionary: SparseDictionary, inputs: Tensor) -> Tensor:
    """(W * T, F): the true latents for what enters the site, (W, T, D)."""
    return torch.cat([dictionary.codes(dictionary.read(rows)) for rows in inputs.split(AT_ONCE)])


def simulated(
    subject: Subject, codes: Tensor, true: Tensor, generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    """What stands for the latents on held-out text, (M, F) each, by name.

    codes  (N, F), the latents on the text that rules are fitted to
    true   (M, F), those on held-out text, which no rule reads
    """
    target = levels(codes, len(true))
    yield "transcoder", true
    yield "transcoder, normalised", only_largest(normalised(true, target, generator), K)
    yield "no latents", torch.zeros_like(true)
    found = codes.mean(0).expand_as(true)
    rules = {"named": named(subject.fitted.ids.flatten(), codes, subject.held_out.ids.flatten(), NAMED)}
    for read in READ:
        seen, asked = (contexts(text.ids, read, subject.vocabulary) for text in (subject.fitted, subject.held_out))
        found = rules[f"{read} read"] = expected(seen, codes, asked, found, PRIOR)
    for rule, predicted in rules.items():
        yield f"{rule}, expected", predicted
        yield f"{rule}, largest", only_largest(predicted, K)
        yield f"{rule}, normalised", only_largest(normalised(predicted, target, generator), K)
    other = found[:, torch.randperm(found.shape[1], generator=generator)]
    yield "rules exchanged", only_largest(normalised(other, target, generator), K)
    yield "random", only_largest(normalised(torch.zeros_like(true), target, generator), K)


def rewritten(subject: Subject, seed: int) -> dict[str, tuple[Tensor, float]]:
    """By way, with a transcoder trained from this seed: losses (W,), and its share of the latents that are active."""
    fitted, held_out = subject.fitted, subject.held_out
    inputs, outputs = fitted.inputs.flatten(0, 1), fitted.outputs.flatten(0, 1)
    recipe = Recipe(expansion=EXPANSION, k=K, steps=STEPS, seed=seed)
    recipe.check_rows(len(inputs), inputs.shape[1])
    dictionary = train(shuffled(inputs, outputs, recipe.batch, seed), recipe)
    codes, true = codes_of(dictionary, fitted.inputs), codes_of(dictionary, held_out.inputs)
    found = {}
    for way, latents in simulated(subject, codes, true, torch.Generator().manual_seed(seed)):
        written = dictionary.written(latents @ dictionary.decoder, dictionary.read(held_out.inputs))
        active = float(((latents > 0) & (true > 0)).sum() / (true > 0).sum())
        found[way] = subject.losses(written.view_as(held_out.outputs)), active
        print(f"seed {seed}, {way}: {float(found[way][0].mean()):.4f} nats", flush=True)
    return found


def verdict(costs: tuple[float, float, float], seeds: list[float], line: float, below: bool) -> str:
    """Whether a cost lies below a line, or not below it; open where seeds, or resampled windows, lie on both sides.

    costs  the share, and the ends of its interval
    """
    _, low, high = costs
    if low <= line <= high or min(seeds) <= line <= max(seeds):
        return "not seen at this size"
    return "held" if (high < line) == below else "did not hold"


def together(verdicts: set[str]) -> str:
    """One for several rules: theirs if they agree, "partly" if the claim held of some and not of others, else open."""
    if len(verdicts) == 1:
        return next(iter(verdicts))
    return "partly" if {"held", "did not hold"} <= verdicts else "not seen at this size"


def main() -> None:
    subject = Subject(FITTED, WINDOWS * LENGTH)
    own = subject.held_out.outputs
    base, zero = subject.losses(own), subject.losses(torch.zeros_like(own))
    mean = subject.losses(subject.fitted.outputs.mean((0, 1)).expand_as(own))
    runs = [rewritten(subject, seed) for seed in SEEDS]
    rows: list[dict[str, Any]] = [
        {"way": way, "loss": float(loss.mean()), "share": share(loss - base, zero - base)[0]}
        for way, loss in (("pocket", base), ("zero", zero), ("mean", mean))
    ]
    costs: dict[str, tuple[float, float, float]] = {}
    seeds: dict[str, list[float]] = {}
    for way in runs[0]:
        losses = torch.stack([run[way][0] for run in runs])
        costs[way] = share(losses.mean(0) - base, zero - base)
        seeds[way] = [share(loss - base, zero - base)[0] for loss in losses]
        row = dict(zip(("share", "low", "high"), costs[way], strict=True))
        found = sum(run[way][1] for run in runs) / len(runs)
        rows.append({"way": way, "loss": float(losses.mean()), **row, "seeds": seeds[way], "active_found": found})
        print(rows[-1], flush=True)
    save(subject, rows, costs, seeds)


def save(
    subject: Subject,
    rows: list[dict[str, Any]],
    costs: dict[str, tuple[float, float, float]],
    seeds: dict[str, list[float]],
) -> None:
    """Write both claims. rows begin with pocket as it is, with no output, and with the mean output at the site."""

    def told(way: str) -> str:
        return f"{costs[way][0]:.2f} ({costs[way][1]:.2f} to {costs[way][2]:.2f})"

    where = (
        f"Loss of pocket on {len(subject.held_out.ids)} held-out windows of {LENGTH} tokens: {rows[0]['loss']:.4f} "
        f"nats, {rows[1]['loss']:.4f} without the output of {subject.site.name}, {rows[2]['loss']:.4f} with its mean. "
        f"Shares of what leaving it out costs, mean of {len(SEEDS)} seeds (95 % of resampled sets of windows): "
    )
    kept = verdict(costs["transcoder"], seeds["transcoder"], RECOVERED, below=True)
    claim = "A sparse transcoder in an MLP's place recovers most of what leaving the MLP out loses"
    measured = (
        f"{where}a top-k transcoder costs {told('transcoder')}, {K} of {EXPANSION * subject.site.d_model} latents, "
        f"{STEPS} steps on {subject.fitted.ids.numel()} tokens; its bias alone {told('no latents')}."
    )
    print(save_claim("partial_rewrite-transcoder", PART, PAPER, claim, kept, measured, rows), kept, measured)
    each = {rule: f"{rule}, normalised" for rule in RULES}
    found = together({verdict(costs[way], seeds[way], AS_MUCH, below=False) for way in each.values()})
    claim = "With latents predicted from explanations, the transcoder costs about as much as no output at all"
    measured = (
        f"{where}with latents predicted by the {NAMED} tokens that hold most of each {told(each['named'])}, by the "
        f"token {told(each['1 read'])}, by two tokens {told(each['2 read'])}, normalised to their true distribution; "
        f"not normalised {told('named, largest')}, {told('1 read, largest')}, {told('2 read, largest')}. The true "
        f"latents cost {told('transcoder')}, normalised {told('transcoder, normalised')}; each latent with another "
        f"one's rule {told('rules exchanged')}, random numbers {told('random')}. Rules are tables in place of "
        f"sentences that a language model reads; about as much is {AS_MUCH} or more."
    )
    print(save_claim("partial_rewrite-rules", PART, PAPER, claim, found, measured, rows), found, measured)


if __name__ == "__main__":
    main()
