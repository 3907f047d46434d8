"""What forgetting costs: facts are taught to a copy of the model, and updates are to remove some of them again.

    taught      all of the made-up facts, and the text of the run (`forgetting/facts.py`, `forgetting/scene.py`)
    retrained   the yardstick: the same training from the same start without the facts that are to go
    updates     from the taught weights: two controls, and knowledge isolation, adapt-then-unlearn and L-CODEC

An update has forgotten when the answers to what was to go are no better than chance (within two standard errors), and
has kept the rest when the other facts stay within 5 points of retraining and the perplexity of the text within 5 %.
The distance is the divergence KL(retrained || updated) of the answers to what was to go: an answer that has become
*unlikely* tells as much as one that is known. The model itself is left as it was.

    layersmith explain MODEL --with unlearning --set facts=96,forget=24

Papers and what differs from them: the docstrings of `forgetting/isolation.py`, `adapt.py` and `newton.py`. Facts and
yardstick are not theirs: the first one's data set is not public, the others' are pictures.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from layersmith.anatomy import Site
from layersmith.anatomy.running import evaluating
from layersmith.errors import UserError
from layersmith.explaining.forgetting import tracing
from layersmith.explaining.forgetting.adapt import adapt_then_unlearn
from layersmith.explaining.forgetting.facts import Facts, draw
from layersmith.explaining.forgetting.isolation import SHARE, knowledge_isolation
from layersmith.explaining.forgetting.newton import codec_newton, linear_maps
from layersmith.explaining.forgetting.plain import fine_tuned, gradient_ascent
from layersmith.explaining.forgetting.scene import Scene, train
from layersmith.explaining.passages import text_loss
from layersmith.explaining.sections import Column, Section, heat_map, table
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.tool import Settings
from layersmith.measuring.inputs import is_causal_lm

#: How far the other facts (a share) and the perplexity of the text (a factor) may be from retraining.
POINTS, FACTOR = 0.05, 1.05
TAUGHT, RETRAINED = "taught", "retrained"


class Unlearning(Survey):
    name = "unlearning"
    summary = "What removing facts costs: five updates of a model beside retraining without them."
    papers = (
        "sha256-semeval-2025-task-4",
        "deep-unlearning-randomized-conditionally-independent",
        "adapt-then-unlearn",
    )
    settings: ClassVar[Settings] = {
        "facts": 96,
        "forget": 24,
        "answers": 8,
        "steps": 150,
        "rate": 3e-4,
        "batch": 32,
        "seed": 0,
    }

    def check(self, settings: Settings) -> None:
        if settings["forget"] < 1:
            raise UserError(
                "The forget set is empty, so there is nothing to unlearn. Give a number of facts: forget=24."
            )
        for name, least in (("answers", 2), ("steps", 1), ("batch", 1), ("seed", 0)):
            if settings[name] < least:
                raise UserError(f"The setting {name} must be at least {least}, not {settings[name]}.")
        if settings["facts"] <= settings["forget"]:
            raise UserError(
                f"With facts={settings['facts']} and forget={settings['forget']} no fact would stay, and what "
                f"forgetting costs could not be seen. Ask for more facts than are forgotten."
            )
        if not 0 < settings["rate"] < 1:
            raise UserError(f"The setting rate, a learning rate, must lie between 0 and 1, not {settings['rate']}.")

    def survey(self, subject: Subject, settings: Settings) -> dict[str, Any]:
        sites = [site for site in subject.sites if site.kind == "ffn"]
        if not is_causal_lm(subject.model) or not sites:
            raise UserError(
                f"Facts are taught to a language model that predicts the next token, and looked for in its "
                f"feed-forwards; {type(subject.model).__name__} with the sites asked for is not that. Take a GPT-like "
                f"model, and sites with feed-forwards among them."
            )
        bench = Bench(subject, _scene(subject, settings))
        taught = bench.trained(TAUGHT, slice(0, settings["facts"]))
        traced, chosen = bench.traced(taught, sites)
        rows = {
            "untaught": bench.row("untaught", None),
            TAUGHT: bench.row(TAUGHT, taught, lambda model: settings["steps"]),
            RETRAINED: bench.row(
                RETRAINED, bench.trained(RETRAINED, bench.scene.facts.retain), lambda model: settings["steps"]
            ),
        }
        scene = replace(bench.scene, kept=rows[TAUGHT]["retain"])
        updates, left_out = _updates(subject.model, scene, chosen)
        rows |= {name: bench.row(name, taught, update) for name, update in updates.items()}
        judged = {name: _judged(row, rows[RETRAINED], scene.facts) for name, row in rows.items()}
        for name in (TAUGHT, RETRAINED):
            subject.workspace.remove_tensors(f"unlearning/{name}")
        found = {
            "facts": {"all": settings["facts"], "forget": settings["forget"], "chance": scene.facts.chance},
            "tracing": traced,
            "trained_alone": [site.name for site in chosen],
            "rows": judged,
            "left_out": left_out,
        }
        return {**found, "sections": _sections(found, sites)}


@dataclass(frozen=True)
class Bench:
    """What rows are measured with."""

    subject: Subject
    scene: Scene

    def row(
        self, name: str, state: dict[str, Tensor] | None, update: Callable[[nn.Module], int] = lambda model: 0
    ) -> dict[str, Any]:
        """Figures of one model: with the weights of the state (None: as it came) after the update."""
        saved: dict[str, Any] | None = self.subject.workspace.load_json(f"unlearning/{name}")
        if saved is not None:
            return saved
        model = copied(self.subject.model, state)
        with evaluating(model):
            steps, facts = update(model), self.scene.facts
            row = {
                "forget": facts.accuracy(model, facts.forget),
                "retain": facts.accuracy(model, facts.retain),
                "text": float(text_loss(model, self.subject.judge)),
                "steps": steps,
                "log_odds": facts.log_odds(model, facts.forget).double().tolist(),
            }
        self.subject.workspace.save_json(f"unlearning/{name}", row)
        return row

    def trained(self, name: str, facts: slice) -> dict[str, Tensor]:
        """The weights after training on those facts from where the model is. Kept in the workspace."""
        saved = self.subject.workspace.load_tensors(f"unlearning/{name}")
        if saved is None:
            scene, model, generator = self.scene, copied(self.subject.model), self.scene.generator()
            with evaluating(model):
                train(scene, model.parameters(), lambda: scene.kept_loss(model, generator, facts), f"training: {name}")
            saved = {key: parameter.detach() for key, parameter in model.named_parameters()}
            self.subject.workspace.save_tensors(f"unlearning/{name}", saved)
        return saved

    def traced(self, taught: dict[str, Tensor], sites: list[Site]) -> tuple[dict[str, float], list[Site]]:
        """What tracing finds in the taught model, and the first feed-forwards that hold most of it."""
        scene = self.scene
        found: dict[str, float] | None = self.subject.workspace.load_json("unlearning/tracing")
        if found is None:
            model = copied(self.subject.model, taught)
            with evaluating(model):
                found = tracing.effects(model, sites, scene.facts, scene.facts.forget, scene.seed, scene.tell)
            self.subject.workspace.save_json("unlearning/tracing", found)
        return found, sites[: tracing.prefix([found[site.name] for site in sites], SHARE)]


def copied(model: Any, state: dict[str, Tensor] | None = None) -> Any:
    """A float32 copy whose weights can be trained, with those of `state` in place of its own."""
    made = copy.deepcopy(model).float().requires_grad_(True)
    if state is not None:
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                parameter.copy_(state[name])
    return made


def _scene(subject: Subject, settings: Settings) -> Scene:
    special = torch.tensor(getattr(subject.tokenizer, "all_special_ids", []), dtype=torch.int64, device=subject.device)
    seen = torch.cat([batch["input_ids"].flatten() for batch in subject.fit]).unique()
    return Scene(
        facts=draw(
            seen[~torch.isin(seen, special)],
            settings["facts"],
            settings["forget"],
            settings["answers"],
            settings["seed"],
        ),
        text=subject.fit,
        sites=subject.sites,
        kept=0.0,
        steps=settings["steps"],
        rate=settings["rate"],
        batch=settings["batch"],
        seed=settings["seed"],
        tell=subject.tell,
    )


def _updates(
    model: nn.Module, scene: Scene, chosen: list[Site]
) -> tuple[dict[str, Callable[[nn.Module], int]], dict[str, str]]:
    """Name -> update; name -> why it cannot be done here."""
    updates: dict[str, Callable[[nn.Module], int]] = {
        "fine-tuned": lambda model: fine_tuned(model, scene),
        "gradient ascent": lambda model: gradient_ascent(model, scene),
        "knowledge isolation": lambda model: knowledge_isolation(model, scene, chosen),
        "adapt then unlearn": lambda model: adapt_then_unlearn(model, scene),
    }
    if not linear_maps(model, scene.sites):
        return updates, {"L-CODEC": "the sites hold no nn.Linear, whose units it chooses among"}
    return {**updates, "L-CODEC": lambda model: codec_newton(model, scene)}, {}


def _judged(row: dict[str, Any], yardstick: dict[str, Any], facts: Facts) -> dict[str, Any]:
    """The row with its distance from retraining and the two verdicts."""
    ours, theirs = (torch.tensor(each["log_odds"], dtype=torch.float64, device="cpu") for each in (row, yardstick))
    error = math.sqrt(facts.chance * (1 - facts.chance) / facts.forgotten)
    text_kept = row["text"] <= yardstick["text"] + math.log(FACTOR)
    return {
        **{key: row[key] for key in ("forget", "retain", "text", "steps")},
        "distance": float((theirs.exp() * (theirs - ours)).sum(1).mean()),
        "forgotten": row["forget"] <= facts.chance + 2 * error,
        "kept": row["retain"] >= yardstick["retain"] - POINTS and text_kept,
    }


def _sections(found: dict[str, Any], sites: list[Site]) -> list[Section]:
    columns = ["forget", "retain", "text", "distance", "steps", "forgotten", "kept"]
    told = {True: "yes", False: "no"}
    rows = [
        [name, *(told[row[c]] if isinstance(row[c], bool) else row[c] for c in columns)]
        for name, row in found["rows"].items()
    ]
    facts, traced = found["facts"], found["tracing"]
    words = (
        f"{facts['forget']} of {facts['all']} facts were to go; chance is {facts['chance']:.3g}. Forget and retain are "
        f"accuracies, text is nats per token on text that nothing was trained on, and the distance is the divergence "
        f"of the answers to what was to go from those after retraining."
    )
    words += "".join(f" {name} is left out: {why}." for name, why in found["left_out"].items())
    meaning = "rise of the right answer's probability when this output alone is restored"
    return [
        table("What was forgotten", ["weights", *columns], rows, words),
        heat_map(
            "Where the facts are",
            [Column("effect", meaning)],
            [(site.name, [traced[site.name]]) for site in sites],
            f"Probability of the right answer: {traced['clean']:.3g}; {traced['noise']:.3g} with noise on the subject. "
            f"Knowledge isolation trains {', '.join(found['trained_alone'])}.",
        ),
    ]
