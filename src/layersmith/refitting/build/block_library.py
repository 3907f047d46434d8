"""Build the library: every method's candidates at every site, each an independent job whose result is saved.

Jobs of one block share the block's captured activations. A job is done when its JSON is in the workspace, so a killed
run builds only what is missing, and blocks that other processes built (`workers.py`) are only read.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from layersmith.anatomy import Site
from layersmith.anatomy.edit import Replacement
from layersmith.errors import UserError
from layersmith.refitting import methods
from layersmith.refitting.build.changeable import check_library
from layersmith.refitting.build.distill import distill
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.candidate import Candidate, Library, decided_sites, pack
from layersmith.refitting.cleared import Missing, is_cleared
from layersmith.refitting.method import Method, candidate_id
from layersmith.refitting.view import SublayerView
from layersmith.runs.workspace import Workspace

#: What a site's own numbers, or how it is called, may come to while a candidate is built: a refusal with its reason.
#: Everything else goes on.
NO_FIT = (torch.linalg.LinAlgError, UserError)


@dataclass(frozen=True)
class LibrarySettings:
    """methods, sites  names · distill_steps  local distillation of each candidate that profits from it"""

    methods: list[str]
    sites: list[str]
    distill_steps: int = 40
    seed: int = 0


@dataclass
class SiteReport:
    """What the library found at one site besides candidates: the floors, and which methods do not apply and why."""

    floors: dict[str, float] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)


def build_library(
    activations: Activations,
    workspace: Workspace,
    settings: LibrarySettings,
    statistics: dict[str, dict[str, Tensor]],
    tell: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> tuple[Library, dict[str, SiteReport]]:
    """All candidates of all sites, and a report per site. `statistics`: what whole-model passes found, per site.

    Raises UserError when the methods of the run have nothing to offer anywhere.
    """
    library, reports = Library(workspace, settings.methods, device=activations.device), {}
    blocks = [*activations.anatomy.of_kind("block"), *activations.anatomy.of_kind("head")]
    for done, block in enumerate(blocks):
        for site, (report, candidates) in build_block(block, activations, workspace, settings, statistics).items():
            reports[site] = report
            library.candidates.update({c.id: c for c in candidates})
        tell("building the library", done + 1, len(blocks))
    check_library(library, {name: report.refusals for name, report in reports.items()})
    return library, reports


def build_block(
    block: Site,
    activations: Activations,
    workspace: Workspace,
    settings: LibrarySettings,
    statistics: dict[str, dict[str, Tensor]],
) -> dict[str, tuple[SiteReport, list[Candidate]]]:
    """{site: its report and candidates} of one block, its sublayers first. Independent of every other block."""
    inside = [s for s in activations.anatomy.in_block(block.name) if s != block]  # a head is its own and only site
    sites = [s for s in (*inside, block) if s.name in settings.sites]
    built = {s.name: _site_jobs(s, activations, workspace, settings, statistics.get(s.name, {})) for s in sites}
    activations.forget()
    return built


def _site_jobs(
    site: Site,
    activations: Activations,
    workspace: Workspace,
    settings: LibrarySettings,
    statistics: dict[str, Tensor],
) -> tuple[SiteReport, list[Candidate]]:
    saved = workspace.load_json(f"library/{site.name}/site")
    if saved is not None:
        report = SiteReport(**saved["report"])
        found = [load(workspace, name) for name in saved["candidates"]]
        if all(found):
            return report, [c for c in found if c]
    view = activations.view(site, settings.seed, statistics)
    report, candidates = SiteReport(), []
    for name in dict.fromkeys([*methods.FLOORS.values(), *methods.steps(settings.methods)]):
        method = methods.get(name)
        if site.kind not in method.kinds:
            continue
        try:
            reason = site.locked or method.unsupported_reason(view)
            if reason is not None:
                report.refusals[name] = reason
                continue
            offered = method.options(view)
        except NO_FIT as error:
            report.refusals[name] = why(error)
            continue
        for chosen in offered:
            candidate = load(workspace, candidate_id(site.name, name, chosen))
            if candidate is None:
                try:
                    candidate = keep(workspace, *_build(view, method, chosen, settings))
                except NO_FIT as error:
                    report.refusals[name] = why(error)
                    break
            candidates.append(candidate)
    for floor, name in methods.FLOORS.items():
        errors = [c.local_error for c in candidates if c.method == name]
        if errors:
            report.floors[floor] = min(errors)
    workspace.save_json(f"library/{site.name}/site", {"report": vars(report), "candidates": [c.id for c in candidates]})
    return report, candidates


def why(error: Exception) -> str:
    """What a site's own numbers had against a candidate, in plain words. A missing file is no such thing: raised."""
    if isinstance(error, Missing):
        raise error
    said = " ".join(str(error).split())
    return said if isinstance(error, UserError) else f"its fit has no solution here: {said}"


def _build(
    view: SublayerView, method: Method, chosen: dict[str, Any], settings: LibrarySettings
) -> tuple[Candidate, dict[str, Tensor]]:
    start = time.perf_counter()
    torch.manual_seed(settings.seed)
    replacement = [(edit, module.eval()) for edit, module in method.build(view, chosen)]
    try:
        steps = distill(view, replacement, settings.distill_steps) if method.distils else 0
        candidate, tensors = finished(view, method, chosen, replacement)
    except (RuntimeError, LookupError, AttributeError) as error:
        inside = all(edit.path not in view.site.modules for edit, _ in replacement)
        if not inside or isinstance(error, (*NO_FIT, torch.OutOfMemoryError)):
            raise
        raise UserError(
            f"it does not run with something else in place of its matrices, whose weights its code may read by itself: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error
    candidate.distilled_steps, candidate.seconds = steps, time.perf_counter() - start
    return candidate, tensors


def finished(
    view: SublayerView, method: Method, chosen: dict[str, Any], replacement: Replacement
) -> tuple[Candidate, dict[str, Tensor]]:
    """The candidate that a replacement is, refused where its numbers are not finite, and its tensors as stored."""
    error = method.error(view, chosen, replacement)
    stored = view.as_stored(replacement)
    edits, tensors = pack(stored)
    candidate = Candidate(
        id=candidate_id(view.site.name, method.name, chosen),
        sites=decided_sites(view.anatomy, view.site, stored),
        method=method.name,
        settings=chosen,
        edits=edits,
        local_error=error,
    )
    if not math.isfinite(candidate.local_error):
        candidate.refused = "its output is not finite on held-out activations"
    elif not all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point()):
        candidate.refused = f"some of its weights are too large for {view.dtype}"
    return candidate, tensors


def keep(workspace: Workspace, candidate: Candidate, tensors: dict[str, Tensor]) -> Candidate:
    """Store a candidate, weights first: where its JSON stands, all of it is there."""
    workspace.save_tensors(f"library/{candidate.id}", tensors)
    workspace.save_json(f"library/{candidate.id}", candidate.to_json())
    return candidate


def load(workspace: Workspace, name: str) -> Candidate | None:
    """The candidate as it was stored, not yet costed or scored; None when it is not there, nor cleared."""
    saved = workspace.load_json(f"library/{name}")
    weights = f"library/{name}"
    if saved is None or not (workspace.has_tensors(weights) or is_cleared(workspace, weights)):
        return None
    return Candidate.from_json(saved)
