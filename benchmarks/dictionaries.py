"""Transcoder, skip transcoder or autoencoder: which stands for a sublayer best, at equal features and equal L0?

    python benchmarks/dictionaries.py [MODEL] [--sites layers.4.ffn,layers.14.attn] [--tokens 32768] [--seeds 2]

At three feed-forwards and one mixer (or at --sites), for each kind and seed: a top-k dictionary, as `explain` fits it,
with `--expansion` features a channel, at most `--k` of them active at a token, fitted in `--steps` steps to the same
tokens. All of them are judged in the sublayer's place on held-out tokens, as `explain` judges: local error, KL, loss
recovered, share of equal most likely tokens, beside the four floors and each kind's shuffled control. An autoencoder
stands behind the sublayer, which goes on running in front of it: at a mixer too, where the command cannot put it.
`shared` is the share of features that two seeds have in common (Hungarian matching, arXiv 2501.16615), the mean over
pairs of seeds.

The claim is that of arXiv 2406.11944, from its abstract: transcoders are at least on par with autoencoders. Here "on
par" is a KL at most a tenth larger, whichever seeds are compared. It speaks of feed-forwards; a mixer gets no verdict,
for what it does depends on other tokens, of which a transcoder reads none. Differs from the paper: top-k in place of
ReLU with an L1 penalty, autoencoders of the outputs, and some ten thousand tokens where it has millions.

Writes results/dictionaries-MODEL.csv. A run that was stopped goes on at the dictionary it was at.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import record
import torch
from torch import Tensor, nn

import layersmith
from layersmith.anatomy import Anatomy, Site, find_sites, original, swap
from layersmith.anatomy.running import evaluating
from layersmith.explaining.capture import joined, watching
from layersmith.explaining.dictionaries.agreement import agreement
from layersmith.explaining.dictionaries.recipe import KINDS, Recipe
from layersmith.explaining.dictionaries.train import shuffled as in_random_order
from layersmith.explaining.dictionaries.train import train
from layersmith.explaining.dictionary import Reconstructed
from layersmith.explaining.floors import floors, params_of
from layersmith.explaining.judge import judge
from layersmith.explaining.pipeline import shuffled
from layersmith.explaining.texts import read
from layersmith.explaining.tool import Observed
from layersmith.ffn.sparse_dictionary import SparseDictionary
from layersmith.measuring.divergence import Divergence, real_positions, run
from layersmith.measuring.quality import TextLoss
from layersmith.runs.identity import identity_of
from layersmith.runs.workspace import Workspace

Batch = dict[str, Tensor]
Row = dict[str, Any]

#: A KL at most so many times the autoencoder's is on par with it.
PAR = 1.1
#: Rows whose codes are held at once.
ROWS = 1024
#: What of the judging table is published.
FIGURES = ("local_error", "divergence", "agreement", "loss", "loss_recovered", "loss_recovered_from_mean", "params")


@dataclass(frozen=True)
class Run:
    """What all sites have in common. `held_out` are the batches to judge on, `control` the seed with a control."""

    model: Any
    anatomy: Anatomy
    held_out: list[Batch]
    workspace: Workspace
    recipe: Recipe
    seeds: range


@dataclass
class Fitted:
    """The dictionaries of one site by (kind, seed), and each kind's shuffled control."""

    dictionaries: dict[tuple[str, int], SparseDictionary] = field(default_factory=dict)
    controls: dict[str, SparseDictionary] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket", help="a folder, a file, a Hub id, or pocket")
    parser.add_argument("--sites", help="names, separated by commas")
    parser.add_argument("--tokens", type=int, default=32768, help="to fit to")
    parser.add_argument("--held-out", type=int, default=2048, help="tokens to judge on")
    parser.add_argument("--expansion", type=int, default=4)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200, help="of 1024 tokens each")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/dictionaries"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    name = record.named(arguments.model)
    model, tokenizer = layersmith.load(arguments.model)
    model.requires_grad_(False)
    anatomy, texts = find_sites(model), read(model, tokenizer, "stdlib", arguments.tokens, 0)
    sites = chosen(anatomy, arguments.sites)
    held_out = first_tokens(texts.judge, arguments.held_out)
    recipe = Recipe(expansion=arguments.expansion, k=arguments.k, steps=arguments.steps)
    recipe.check_rows(arguments.tokens, sites[0].d_model)
    identity = identity_of(model, tokenizer, {"fit": texts.fit, "judge": held_out})
    workspace = Workspace(arguments.out / name, {**identity, "settings": {**asdict(recipe), "seeds": arguments.seeds}})
    job = Run(model, anatomy, held_out, workspace, recipe, range(arguments.seeds))
    sizes = {"k": recipe.k, "steps": recipe.steps, "tokens": texts.facts["fit_tokens"], "held_out": tokens_of(held_out)}
    missing = [site for site in sites if workspace.load_json(f"rows/{site.name}") is None]
    for site, observed in observed_at(model, missing, texts.fit):
        workspace.save_json(f"rows/{site.name}", explained(job, site, observed))
        workspace.remove_folder(f"trained/{site.name}")
    rows = [{**row, **sizes} for site in sites for row in workspace.load_json(f"rows/{site.name}") or []]
    workspace.close()
    print(record.save_csv(f"dictionaries-{name}", rows))


def chosen(anatomy: Anatomy, names: str | None) -> list[Site]:
    """The sites of that name; else feed-forwards early, in the middle and late, and the mixer of the middle one."""
    if names is not None:
        return [anatomy.site(name) for name in names.split(",")]
    ffns, mixers = anatomy.of_kind("ffn"), anatomy.of_kind("mixer")
    return [ffns[len(ffns) * part // 15] for part in (2, 7, 12)] + [mixers[len(mixers) * 7 // 15]]


def first_tokens(batches: Sequence[Batch], wanted: int) -> list[Batch]:
    """The first batches, until they hold so many tokens."""
    found: list[Batch] = []
    for batch in batches:
        if tokens_of(found) >= wanted:
            break
        found.append(batch)
    return found


def tokens_of(batches: Sequence[Batch]) -> int:
    return sum(batch["input_ids"].numel() for batch in batches)


def observed_at(model: Any, sites: Sequence[Site], batches: Sequence[Batch]) -> list[tuple[Site, Observed]]:
    """What enters and leaves the sites, all of them in one run of the model."""
    parts: dict[str, list[dict[str, Tensor]]] = {site.name: [] for site in sites}
    for batch in batches if sites else ():
        with ExitStack() as stack, evaluating(model):
            calls = {site.name: stack.enter_context(watching(model, site, batch)) for site in sites}
            run(model, batch)
            for name, rows in calls.items():
                parts[name].append(joined(rows))
    found = []
    for site in sites:
        rows = joined(parts.pop(site.name))
        found.append((site, Observed(rows["inputs"], rows["outputs"], rows.get("ids"), original(model, site))))
    return found


def explained(job: Run, site: Site, observed: Observed) -> list[Row]:
    """All rows of one site: dictionaries, controls, floors."""
    fitted = dictionaries(job, site, observed)
    counted = {key: activity(part, read_by(key[0], observed)) for key, part in fitted.dictionaries.items()}
    rank = round(counted["transcoder", job.seeds[0]]["active"])
    table = judged(job, site, fitted, floors(observed, rank))
    features = job.recipe.expansion * site.d_model
    found = []
    for (kind, seed), size in counted.items():
        row = {"site": site.name, "kind": site.kind, "what": kind, "seed": seed, "features": features, **size}
        row |= {figure: table[f"{kind} {seed}"][figure] for figure in FIGURES}
        row["shared"] = shared([part for (each, _), part in fitted.dictionaries.items() if each == kind])
        found.append({**row, "verdict": verdict(site.kind, table, kind, job.seeds)})
        print({key: round(value, 4) if isinstance(value, float) else value for key, value in found[-1].items()})
    for what in (*(f"{kind} shuffled" for kind in KINDS), "zero", "mean", "linear", "rank_r"):
        row = {"site": site.name, "kind": site.kind, "what": f"rank {rank}" if what == "rank_r" else what}
        found.append({**row, **{figure: table[what][figure] for figure in FIGURES}})
    return found


def dictionaries(job: Run, site: Site, observed: Observed) -> Fitted:
    """Trained on what the site reads and writes; finished ones are read back."""
    found = Fitted()
    mixed = shuffled(observed, 0)
    for kind, seed in itertools.product(KINDS, job.seeds):
        recipe = Recipe(**{**asdict(job.recipe), "kind": kind, "seed": seed})
        x, work = read_by(kind, observed), f"trained/{site.name}"
        stream = in_random_order(x, observed.outputs, recipe.batch, seed)
        found.dictionaries[kind, seed] = train(stream, recipe, job.workspace, f"{work}/true")
        if seed == job.seeds[0]:
            stream = in_random_order(x, mixed.outputs, recipe.batch, seed)
            found.controls[kind] = train(stream, recipe, job.workspace, f"{work}/shuffled")
        print(f"{site.name}: {kind}, seed {seed} is trained", flush=True)
    return found


def read_by(kind: str, observed: Observed) -> Tensor:
    """What a dictionary of that kind reads, (N, D). The control's autoencoder reads the outputs in their own order."""
    return observed.outputs if kind == "sae" else observed.inputs


@torch.no_grad()
def activity(dictionary: SparseDictionary, rows: Tensor) -> dict[str, float]:
    """How many features are active at a row on average, and the share of those that are active at none."""
    fired, total = torch.zeros(len(dictionary.decoder), dtype=torch.bool), 0
    for part in rows.split(ROWS):
        codes = dictionary.codes(dictionary.read(part)) > 0
        fired |= codes.any(0)
        total += int(codes.sum())
    return {"active": total / len(rows), "never": float((~fired).double().mean())}


def shared(parts: Sequence[SparseDictionary]) -> float | None:
    """The mean over pairs of dictionaries of the share of features that both have; None for one alone."""
    pairs = [agreement(first, second).shared() for first, second in itertools.combinations(parts, 2)]
    return sum(pairs) / len(pairs) if pairs else None


def judged(job: Run, site: Site, fitted: Fitted, beside: dict[str, nn.Module]) -> dict[str, Row]:
    """Figures by what stands there: "KIND SEED", "KIND shuffled", and the floors."""
    every = {f"{kind} {seed}": part for (kind, seed), part in fitted.dictionaries.items()}
    every |= {f"{kind} shuffled": part for kind, part in fitted.controls.items()}
    autoencoders = {name: part for name, part in every.items() if name.startswith("sae ")}
    modules = {name: part for name, part in every.items() if name not in autoencoders}
    table = judge(job.model, job.anatomy, site, {**modules, **beside}, job.held_out, lambda text, done, total: None)
    whole, found = behind(job, site, autoencoders)
    for row in found.values():
        row["loss_recovered"] = recovered(table["zero"]["loss"], row["loss"], whole)
        row["loss_recovered_from_mean"] = recovered(table["mean"]["loss"], row["loss"], whole)
    return table | found


@torch.no_grad()
def behind(job: Run, site: Site, parts: dict[str, SparseDictionary]) -> tuple[float, dict[str, Row]]:
    """The model's loss in nats, and what `judge` measures of dictionaries that the sublayer's outputs go through.

    `judge` runs what stands in the sublayer's place on single tokens, which a mixer does not bear.
    """
    sublayer, whole, length = original(job.model, site), TextLoss(), 0.0
    distances, losses = {name: Divergence() for name in parts}, {name: TextLoss() for name in parts}
    wrong = dict.fromkeys(parts, 0.0)
    for batch in job.held_out:
        mask = real_positions(batch)
        with evaluating(job.model):
            with watching(job.model, site, batch) as calls:
                teacher = run(job.model, batch)
            outputs = joined(calls)["outputs"]
            length += float(outputs.double().square().sum())
            whole.add(teacher.logits, batch["input_ids"], mask)
            for name, part in parts.items():
                wrong[name] += float((part(outputs).double() - outputs.double()).square().sum())
                with swap(job.model, {site: Reconstructed(sublayer, part)}, job.anatomy):
                    student = run(job.model, batch)
                distances[name].add(teacher, student, mask)
                losses[name].add(student.logits, batch["input_ids"], mask)
    found = {
        name: {
            "local_error": wrong[name] / max(length, 1e-30),
            "divergence": distances[name].value,
            "agreement": distances[name].agreement,
            "loss": math.log(losses[name].perplexity or math.nan),
            "params": params_of(part),
        }
        for name, part in parts.items()
    }
    return math.log(whole.perplexity or math.nan), found


def recovered(ablated: float, found: float, whole: float) -> float | None:
    """As in `judge`: None where leaving the sublayer out costs nothing."""
    return (ablated - found) / (ablated - whole) if ablated > whole else None


def verdict(site_kind: str, table: dict[str, Row], kind: str, seeds: Sequence[int]) -> str | None:
    """Whether a kind of transcoder is at least on par with the autoencoder, whichever seeds are compared.

    None of an autoencoder, and at a mixer, of which the claim does not speak.
    """
    if kind == "sae" or site_kind != "ffn":
        return None
    pairs = itertools.product(seeds, seeds)
    par = [table[f"{kind} {own}"]["divergence"] <= PAR * table[f"sae {other}"]["divergence"] for own, other in pairs]
    return "held" if all(par) else "not seen at this size" if any(par) else "did not hold"


if __name__ == "__main__":
    main()
