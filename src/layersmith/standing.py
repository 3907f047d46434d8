"""Where a source paper stands here: what is made from it, what was measured of its claims, or why nothing is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from layersmith import catalogue, evidence, facts
from layersmith.evidence import Claim
from layersmith.explaining import constructions, tools
from layersmith.papers import Paper
from layersmith.racing import optimizers, tasks
from layersmith.refitting import methods
from layersmith.refitting.heal.adapters import ADAPTERS
from layersmith.refitting.prove.folds import FOLDS

#: What runs a thing of each kind; where "…" stands the user adds a budget, a folder. Folds are tried on every result.
COMMANDS = {
    "part": "layersmith check {}",
    "method": "layersmith refit MODEL --methods {} …",
    "fold": "layersmith show {}",
    "adapter": "layersmith refit MODEL --heal-adapter {} …",
    "construction": "layersmith construct {}",
    "tool": "layersmith explain MODEL --with {} …",
    "task": "layersmith race --task {}",
    "optimizer": "layersmith race --optimizer adamw,{}",
}


@dataclass(frozen=True)
class Standing:
    """Where a paper stands: what of each kind names it, and the claims measured."""

    parts: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    folds: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    constructions: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()
    claims: tuple[tuple[str, Claim], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What is made from the paper, whatever its kind."""
        of_refit = (*self.parts, *self.methods, *self.folds, *self.adapters)
        made = (*of_refit, *self.constructions, *self.tools, *self.tasks, *self.optimizers)
        return tuple(dict.fromkeys(made))

    @property
    def commands(self) -> tuple[tuple[str, str, str], ...]:
        """(kind, name, the command that runs it) of all that is made from the paper."""
        made = [(kind, name) for kind in COMMANDS for name in getattr(self, f"{kind}s")]
        return tuple((kind, name, COMMANDS[kind].format(name)) for kind, name in made)

    @property
    def nowhere(self) -> bool:
        return not self.names


def standing(paper: Paper) -> Standing:
    """What of each kind names the paper, and what was measured of its claims."""
    claims = [(part, claim) for part in catalogue.ENTRIES for claim in evidence.of(part).claims]
    return Standing(
        parts=tuple(name for name, found in catalogue.ENTRIES.items() if paper.id in found.papers),
        methods=_citing(paper, methods.METHODS),
        folds=tuple(name for name, fold in FOLDS.items() if paper.id in fold.papers),
        adapters=_citing(paper, ADAPTERS),
        constructions=_citing(paper, constructions.CONSTRUCTIONS),
        tools=_citing(paper, tools.TOOLS),
        tasks=_citing(paper, tasks.TASKS),
        optimizers=_citing(paper, optimizers.OPTIMIZERS),
        claims=tuple((part, claim) for part, claim in claims if claim.paper == paper.id),
    )


def _citing(paper: Paper, table: dict[str, str]) -> tuple[str, ...]:
    """The names in a table of classes whose files name the paper."""
    return tuple(name for name, target in table.items() if paper.id in facts.of(target).papers)


def reason(paper: Paper) -> str:
    """Why nothing stands for the paper; "" when something does."""
    return paper.reason or ("not built here" if standing(paper).nowhere else "")


def paper_as_json(paper: Paper) -> dict[str, Any]:
    """A paper, where it stands, and, where it stands nowhere, why."""
    stands = standing(paper)
    return {
        "id": paper.id,
        "arxiv": paper.arxiv,
        "title": paper.title,
        "kind": paper.kind,
        "mechanism": paper.mechanism,
        "parts": list(stands.parts),
        "methods": list(stands.methods),
        "folds": list(stands.folds),
        "adapters": list(stands.adapters),
        "constructions": list(stands.constructions),
        "tools": list(stands.tools),
        "tasks": list(stands.tasks),
        "optimizers": list(stands.optimizers),
        "commands": [{"kind": kind, "name": name, "command": command} for kind, name, command in stands.commands],
        "test": paper.test or None,
        "catches": paper.catches or None,
        "claims": [{"part": part, **vars(claim)} for part, claim in stands.claims],
        "reason": reason(paper),
    }
