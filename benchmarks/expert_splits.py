"""What does a dense feed-forward lose and gain when it is split into experts: by which partition, under which gate?

    layersmith compile && python benchmarks/expert_splits.py MODEL [--rounds 10] [--heal-steps 400]

MODEL is a folder, a Hub id, "pocket", or "pocket-relu": pocket with ReLU in place of SiLU, healed towards pocket on the
text of a refit (what that cost stands in `healed_kl`). Every feed-forward of the model is split into eight groups of
neurons, of which two are shared by all tokens or none, and a token uses k of the others:

    partition   random, keys (balanced k-means), together (co-activation graph), importance (Taylor, in order)
    gate        keys (mean keys), linear (ridge), mlp (MoEfication's), oracle (computes everything: a bound, no saving)

Beside them `carve` and the dense layer of the active size (`width`). KL is in nats per token to the unsplit model, on
held-out windows on which nothing was fitted; latency a ratio to the unsplit model, timed in turns, in prefill and in
decode. Nothing is trained after the split but the gate. Writes results/expert_splits-MODEL.csv, and the table so far
after every partition.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record import save_csv
from torch import Tensor, nn
from transformers.activations import ACT2FN

import layersmith
from layersmith.anatomy import Replay, Site, find_sites
from layersmith.anatomy.edit import Replacement
from layersmith.anatomy.head import with_head
from layersmith.anatomy.swap import replacement_for
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.ffn.split_ffn import SplitFFN
from layersmith.measuring.divergence import divergence
from layersmith.measuring.environment import environment
from layersmith.measuring.shape import parse_shape
from layersmith.refitting import methods
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.batches import Batches, Sizes, prepare
from layersmith.refitting.calibrate.taylor import taylor_scores
from layersmith.refitting.heal.distillation import HealSettings, heal
from layersmith.refitting.methods.experts import partitions
from layersmith.refitting.methods.experts.gates import fit_linear, fit_mlp, needed_by_activation
from layersmith.refitting.methods.experts.moefication import active_together
from layersmith.refitting.methods.prune.width import hidden_activations
from layersmith.refitting.search.variants import clock_variant, joint_divergence, outputs
from layersmith.runs.workspace import Workspace

GROUPS = 8
#: Shared groups -> the k that are tried with them.
ACTIVE = {0: (6, 4, 2), 2: (4, 2, 1)}
SHAPES = ("prefill=1x128", "decode=1x128")
#: Tokens that partitions and gates are fitted to, at each site.
TOKENS = 2048


@dataclass(frozen=True)
class Dense:
    """One feed-forward of the model, what enters it, and how much the model depends on each neuron."""

    site: Site
    operator: GLU | MLP
    x: Tensor
    importance: Tensor

    @property
    def hidden(self) -> Tensor:
        return hidden_activations(self.operator, self.x)


def by_key(dense: Dense, rest: Tensor, n_experts: int) -> Tensor:
    return partitions.by_keys(partitions.keys_of(dense.operator)[rest], n_experts)


def by_graph(dense: Dense, rest: Tensor, n_experts: int) -> Tensor:
    together = active_together(dense.hidden, dense.operator.spec()["act"])
    return partitions.by_together(together[rest][:, rest], n_experts)


PARTITIONS: dict[str, Callable[[Dense, Tensor, int], Tensor]] = {
    "random": lambda dense, rest, n_experts: partitions.random(len(rest), n_experts, seed=0),
    "keys": by_key,
    "together": by_graph,
    "importance": lambda dense, rest, n_experts: partitions.by_importance(dense.importance[rest], n_experts),
}
FITS: dict[str, Callable[[SplitFFN, Tensor, Tensor], None]] = {"linear": fit_linear, "mlp": fit_mlp}
GATES = ("keys", "linear", "mlp", "oracle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each timing")
    parser.add_argument("--heal-steps", type=int, default=400, help="of pocket-relu")
    parser.add_argument("--only", choices=list(PARTITIONS), help="this partition alone, and nothing is written")
    arguments = parser.parse_args()
    name, conditions = Path(arguments.model).name, environment()
    model, tokenizer = layersmith.load("pocket" if name == "pocket-relu" else arguments.model)
    model = model.float().eval().requires_grad_(False)
    with_relu = name == "pocket-relu"
    text = prepare(model, tokenizer, "stdlib", Sizes(heal=4 * arguments.heal_steps if with_relu else 0), seed=0)
    workspace = Workspace(
        Path("out/benchmarks") / f"expert_splits-{name}", {"model": name, "steps": arguments.heal_steps}
    )
    told: dict[str, Any] = {"model": name, "groups": GROUPS, "rounds": arguments.rounds}
    if with_relu:
        model, told["healed_kl"] = relufied(model, text, arguments.heal_steps, workspace)
    rows: list[dict[str, Any]] = []
    wanted = [arguments.only] if arguments.only else ["baselines", *PARTITIONS]
    for found in measured(model, text, workspace, arguments.rounds, wanted):
        rows += [told | row for row in found]
        if not arguments.only:
            print(save_csv(f"expert_splits-{name}", rows, conditions), flush=True)
    workspace.close()


def relufied(model: Any, text: Batches, steps: int, workspace: Workspace) -> tuple[nn.Module, float]:
    """The model with ReLU in its feed-forwards, healed towards the model, and its KL to it."""
    student = copy.deepcopy(model)
    student.config.hidden_act = "relu"
    for layer in student.model.layers:
        layer.mlp.act_fn = ACT2FN["relu"]
    asked = HealSettings(steps=steps)
    heal(student.requires_grad_(True), model, find_sites(model), text.heal, text.search, asked, workspace=workspace)
    student = student.eval().requires_grad_(False)
    return student, divergence(model, student, text.report).value


def measured(
    model: Any, text: Batches, workspace: Workspace, rounds: int, wanted: list[str]
) -> Iterator[list[dict[str, Any]]]:
    """The rows of each partition wanted, and of the "baselines"."""
    anatomy = with_head(model, find_sites(model))
    activations = Activations(Replay(model, anatomy), anatomy, text, workspace)
    activations.calibrate()
    importance = taylor_scores(model, anatomy, text.fit[:4], workspace)
    sites = [site for site in anatomy.of_kind("ffn") if not site.locked and site.name in importance]
    expected = outputs(model, text.report)

    def row(replacement: Replacement, **facts: Any) -> dict[str, Any]:
        moved = joint_divergence(model, replacement, text.report, expected)
        clocked = {at: clock_variant(model, replacement, parse_shape(at), rounds) for at in SHAPES}
        found = facts | {"kl": moved.value, "agreement": moved.agreement}
        for at, clock in clocked.items():
            found |= {f"{at} ratio": clock.latency_ratio, f"{at} ms": clock.latency_ms}
        print(" ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in found.items()), flush=True)
        return found

    if "baselines" in wanted:
        yield list(baselines(activations, sites, importance, row))
    dense = [prepared(activations, site, importance[site.name]["taylor"]) for site in sites]
    for partition, cut in [(name, cut) for name, cut in PARTITIONS.items() if name in wanted]:
        found = []
        for n_shared, ks in ACTIVE.items():
            splits = [split(each, cut, n_shared) for each in dense]
            for gate in GATES:
                chosen = [fitted(each, *halves, gate) for each, halves in zip(dense, splits, strict=True)]
                for k in ks:
                    replacement = placed(model, dense, splits, chosen, gate, k)
                    active = (n_shared + k) / GROUPS
                    facts = {"partition": partition, "gate": gate, "shared": n_shared, "k": k, "active": active}
                    found.append(row(replacement, **facts))
        yield found


def baselines(
    activations: Activations, sites: list[Site], importance: dict[str, dict[str, Tensor]], row: Callable[..., Any]
) -> Iterator[dict[str, Any]]:
    """`carve`, and the dense layer of the active size."""
    cases = [("width", {"keep": keep}, keep) for keep in (0.75, 0.5, 0.375, 0.25)]
    cases += [("carve", {"shared": 2, "k": k}, (2 + k) / GROUPS) for k in ACTIVE[2]]
    for name, settings, active in cases:
        method, replacement = methods.get(name), []
        for site in sites:
            view = activations.view(site, 0, importance[site.name])
            if method.unsupported_reason(view) is None:
                replacement += view.as_stored(method.build(view, settings))
        if replacement:
            yield row(replacement, partition=name, gate=name, active=active)


def prepared(activations: Activations, site: Site, importance: Tensor) -> Dense:
    view = activations.view(site)
    return Dense(site, view.ffn.operator, view.inputs[:TOKENS].clone(), importance.abs())


def split(dense: Dense, cut: Callable[[Dense, Tensor, int], Tensor], n_shared: int) -> tuple[Tensor, Tensor]:
    """Shared groups and groups to choose from."""
    shared, rest = partitions.split(dense.importance, n_shared, GROUPS - n_shared)
    return shared, rest[cut(dense, rest, GROUPS - n_shared)]


def fitted(dense: Dense, shared: Tensor, groups: Tensor, gate: str) -> dict[str, Tensor]:
    """The weights of the gate, which are the same for every k."""
    part = SplitFFN.from_dense(dense.operator, groups, 1, gate, shared=shared)
    if gate in FITS:
        FITS[gate](part, dense.x, needed_by_activation(dense.hidden, groups))
    weights: dict[str, Tensor] = part.choice.state_dict()
    return weights


def placed(
    model: nn.Module,
    dense: list[Dense],
    splits: list[tuple[Tensor, Tensor]],
    chosen: list[dict[str, Tensor]],
    gate: str,
    k: int,
) -> Replacement:
    """Every feed-forward split."""
    replacement: Replacement = []
    for each, (shared, groups), weights in zip(dense, splits, chosen, strict=True):
        part = SplitFFN.from_dense(each.operator, groups, k, gate, shared=shared)
        part.choice.load_state_dict(weights)
        replacement += replacement_for(model, each.site, part.eval().requires_grad_(False))
    return replacement


if __name__ == "__main__":
    main()
