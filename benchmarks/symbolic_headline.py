"""Written equations in the place of feed-forwards: how many more tokens per second, and what is left of the model?

    python benchmarks/symbolic_headline.py [MODEL] [--tokens 8192] [--generations 60] [--out FOLDER]

The headline of "SymTorch: Symbolic Distillation of Neural Networks": with 1 to 7 feed-forwards replaced, 2 to 19 % more
tokens per second. Here one, three and seven feed-forwards, spread over the depth, by equations of the tool `formula`:
between the first 32 principal directions of what enters and the first 8 of what leaves, as in the paper's release. All
are fitted to the original's activations, and stand in the model together. In the same places, for the same text:

    passed_on, projected     the paper's controls: MLP(x) = x, and the feed-forward itself between the projections,
                             which is what perfect equations would come to
    zero, mean, linear       no output, the mean output, the best matrix
    rank_r                   the best map through as many directions as there are equations

Perplexity, KL and agreement are of held-out text (the paper's is WikiText-2, on a model of 1.5B). Tokens per second of
prefill and decode are timed in turns with the original's, on one thread: of the equations, of no output, which no
stand-in can outrun, and of rank_r, which does the same reading and writing without equations. Bytes of weights stand
for the memory that the paper reports. A verdict is about speed alone: "held" where the gain is at least 2 %.

Wants pyoperon (`pip install '.[formula]'`). Writes results/symbolic_headline-MODEL.csv. Equations are kept as they are
found, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import record
import torch
from dictionaries import Batch, first_tokens, observed_at, tokens_of
from torch import nn

import layersmith
from layersmith import catalogue
from layersmith.anatomy import Anatomy, Site, find_sites, replacement_for
from layersmith.anatomy.edit import Replacement
from layersmith.anatomy.twin import twin
from layersmith.contract import Operator, stored_bytes
from layersmith.errors import UserError
from layersmith.explaining.floors import floors
from layersmith.explaining.formula import Formula, Projected
from layersmith.explaining.formulas.directions import Directions
from layersmith.explaining.judge import standing_for
from layersmith.explaining.texts import read
from layersmith.explaining.tool import Observed, Settings
from layersmith.ffn.shared.expressions import nodes
from layersmith.measuring.divergence import Divergence, Expected, real_positions, run
from layersmith.measuring.latency import latency, model_step, ratio
from layersmith.measuring.quality import TextLoss
from layersmith.measuring.shape import parse_shape
from layersmith.runs.identity import identity_of
from layersmith.runs.workspace import Workspace

#: Which of the seven feed-forwards are replaced together, by how many they are.
SETS = {1: (3,), 3: (1, 3, 5), 7: (0, 1, 2, 3, 4, 5, 6)}
#: Directions that are variables, and that have an equation.
INPUTS, OUTPUTS = 32, 8
#: What is timed, at which shapes.
TIMED, SHAPES = ("equations", "zero", "rank_r"), {"prefill": "prefill=1x256", "decode": "decode=1x128"}
#: The gain that the paper reports at least.
CLAIMED = 1.02

Row = dict[str, Any]
#: (how many are replaced, by what) -> the edits.
Variants = dict[tuple[int, str], Replacement]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket", help="a folder, a file, a Hub id, or pocket")
    parser.add_argument("--tokens", type=int, default=8192, help="to fit to")
    parser.add_argument("--held-out", type=int, default=2048, help="tokens to judge on")
    parser.add_argument("--generations", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=9, help="timings of each variant")
    parser.add_argument("--out", type=Path, default=Path("out/symbolic_headline"))
    arguments = parser.parse_args()
    settings = Formula.settings | {"inputs": INPUTS, "outputs": OUTPUTS, "generations": arguments.generations}
    try:
        Formula().check(settings)
    except UserError as error:
        raise SystemExit(str(error)) from error
    torch.set_num_threads(1)
    name = record.named(arguments.model)
    model, tokenizer = layersmith.load(arguments.model)
    model.eval().requires_grad_(False)
    anatomy, texts = find_sites(model), read(model, tokenizer, "stdlib", arguments.tokens, 0)
    identity = {**identity_of(model, tokenizer, {"fit": texts.fit}), "settings": settings}
    workspace = Workspace(arguments.out / name, identity)
    parts = {}
    for site, observed in observed_at(model, seven(anatomy), texts.fit):
        parts[site] = stand_ins(observed, written(site, observed, settings, workspace))
    workspace.close()
    variants = made(model, parts)
    held_out = first_tokens(texts.judge, arguments.held_out)
    rows = with_verdicts(measured(model, variants, held_out), clocked(model, variants, arguments.rounds))
    sizes = {"inputs": INPUTS, "outputs": OUTPUTS, "fitted": texts.facts["fit_tokens"], "held_out": tokens_of(held_out)}
    for row in rows:
        print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
    print(record.save_csv(f"symbolic_headline-{name}", [{**row, **sizes} for row in rows]))


def seven(anatomy: Anatomy) -> list[Site]:
    """Seven feed-forwards, evenly over the depth and none at its ends."""
    ffns = anatomy.of_kind("ffn")
    if len(ffns) < 8:
        raise SystemExit(f"Seven feed-forwards are replaced, not the first; the model has {len(ffns)}.")
    return [ffns[len(ffns) * part // 8] for part in range(1, 8)]


def written(site: Site, observed: Observed, settings: Settings, workspace: Workspace) -> nn.Module:
    """The equations of a site as a module; found ones are read back."""
    spec, tensors = workspace.load_json(f"equations/{site.name}"), workspace.load_tensors(f"equations/{site.name}")
    if spec is None or tensors is None:
        found: Any = Formula().explain(observed, settings, lambda share: None).module
        spec, tensors = found.spec(), found.state_dict()
        workspace.save_json(f"equations/{site.name}", spec)
        workspace.save_tensors(f"equations/{site.name}", tensors)
        print(f"{site.name}: {nodes_of(spec)} nodes in {len(spec['equations'])} equations", flush=True)
    module: nn.Module = catalogue.build(spec)
    module.load_state_dict(tensors)
    return module.eval().requires_grad_(False)


def nodes_of(spec: Mapping[str, Any]) -> int:
    return sum(nodes(tree) for tree in spec["equations"])


def stand_ins(observed: Observed, equations: nn.Module) -> dict[str, nn.Module]:
    """Everything that is put in a feed-forward's place, by name."""
    width = observed.inputs.shape[-1]
    read_from, write_to = Directions.of(observed.inputs, INPUTS), Directions.of(observed.outputs, OUTPUTS)
    return {
        "equations": equations,
        "passed_on": catalogue.build({"name": "identity", "d_model": width}),
        "projected": Projected(observed.module, read_from, write_to),
        **floors(observed, OUTPUTS),
    }


def made(model: nn.Module, parts: Mapping[Site, Mapping[str, nn.Module]]) -> Variants:
    """The variants: each stand-in in one, three and seven places."""
    sites = list(parts)
    found: Variants = {}
    for count, places in SETS.items():
        for way in parts[sites[0]]:
            edits: Replacement = []
            for site in (sites[place] for place in places):
                module = parts[site][way]
                operator = module if isinstance(module, Operator) else standing_for(site, module)
                edits += replacement_for(model, site, operator)
            found[count, way] = edits
    return found


@torch.no_grad()
def measured(model: Any, variants: Variants, batches: Sequence[Batch]) -> list[Row]:
    """Quality and bytes of the original (layers 0) and of every variant; one without numbers is infinitely far."""
    models: dict[tuple[int, str], Any] = {(0, "original"): model}
    models |= {key: twin(model, edits) for key, edits in variants.items()}
    distances, losses = {key: Divergence() for key in models}, {key: TextLoss() for key in models}
    broken = set()
    for batch in batches:
        mask = real_positions(batch)
        expected = Expected(run(model, batch), mask)
        for key, changed in models.items():
            output = run(changed, batch)
            if not torch.isfinite(output.logits).all():
                broken.add(key)
                continue
            distances[key].add_to(expected, output)
            losses[key].add(output.logits, batch["input_ids"], mask)
    whole, found = stored_bytes(model), []
    for key, changed in models.items():
        row: Row = {"layers": key[0], "way": key[1], "perplexity": math.inf, "divergence": math.inf}
        if key not in broken:
            row |= {"perplexity": losses[key].perplexity, "divergence": distances[key].value}
            row["agreement"] = distances[key].agreement
        if key[1] != "projected":  # it runs the feed-forward itself, and holds it as it is
            row["bytes_share"] = stored_bytes(changed) / whole
        if key[1] == "equations":
            row["nodes"] = sum(nodes_of(edit.spec) for edit, _ in variants[key])
        found.append(row)
    return found


def clocked(model: nn.Module, variants: Variants, rounds: int) -> dict[tuple[int, str], Row]:
    """Tokens per second, and how many times those of the original, of what is timed."""
    every = {(0, "original"): twin(model)}
    every |= {key: twin(model, edits) for key, edits in variants.items() if key[1] in TIMED}
    named = {f"{count} {way}": changed for (count, way), changed in every.items()}
    found: dict[tuple[int, str], Row] = {key: {} for key in every}
    for phase, text in SHAPES.items():
        shape = parse_shape(text)
        timings = latency({name: model_step(changed, shape) for name, changed in named.items()}, rounds, warmup=2)
        tokens = shape.tokens if phase == "prefill" else 1
        for count, way in every:
            name = f"{count} {way}"
            found[count, way] |= {
                f"{phase}_tokens_per_s": tokens / timings[name].median,
                f"{phase}_faster": 1 / ratio(timings, name, "0 original"),
            }
    return found


def with_verdicts(rows: Sequence[Row], clocks: Mapping[tuple[int, str], Row]) -> list[Row]:
    """The rows with their speeds; the equations' also with the verdict, and what they are nearer to the model than."""
    found = []
    for row in rows:
        speed = clocks.get((row["layers"], row["way"]), {})
        found.append({**row, **speed})
        if row["way"] == "equations":
            gains = [speed[f"{phase}_faster"] >= CLAIMED for phase in SHAPES]
            found[-1]["verdict"] = "held" if all(gains) else "partly" if any(gains) else "did not hold"
            beside = [other for other in rows if other["layers"] == row["layers"]]
            farther = [other["way"] for other in beside if row["divergence"] < other["divergence"]]
            found[-1]["nearer_than"] = " ".join(farther) or "none"
    return found


if __name__ == "__main__":
    main()
