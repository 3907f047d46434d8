"""What a method is.

A method turns a trained sublayer into candidates: it says where it applies, which settings it offers there, and
builds a replacement from the original's weights and its calibration activations. One method per file in `methods/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from layersmith.anatomy.edit import Edit, Replacement
from layersmith.contract import Operator
from layersmith.refitting.view import SublayerView

if TYPE_CHECKING:
    from layersmith.refitting.candidate import Candidate

Settings = dict[str, Any]

#: What a method may read of the calibration, beside the weights.
STATISTICS = {
    "inputs": "what enters the sublayer",
    "outputs": "what leaves the sublayer",
    "grams": "second moments, means and peaks of what enters each weight matrix",
    "stream": "the residual stream, at the sublayer or behind the blocks that follow",
    "taylor": "gradients of the model's output entropy, one backward pass per batch",
}


class Method(ABC):
    """One way to make candidates for a site. Subclasses are stateless; `methods/__init__.py` lists them."""

    #: Name on the command line.
    name: ClassVar[str]
    #: Site kinds it can work on.
    kinds: ClassVar[tuple[str, ...]]
    #: Ids of source papers.
    papers: ClassVar[tuple[str, ...]] = ()
    #: What of its papers is not there, in words that go on after "without"; "" when nothing is.
    missing: ClassVar[str] = ""
    #: Catalogue names of the parts it can put in place; empty when it changes a sublayer without putting in a part.
    builds: ClassVar[tuple[str, ...]] = ()
    #: Whether a run tries it without being told to, for a budget that it can help with.
    default: ClassVar[bool]
    #: Budgets it can help with, from some kind of site at least.
    saves: ClassVar[tuple[str, ...]]
    #: What a site has to be, in plain words; "" when any site of its kinds will do.
    requires: ClassVar[str] = ""
    #: What it reads of the calibration, by names of `STATISTICS`; empty when the weights are enough.
    statistics: ClassVar[tuple[str, ...]] = ()
    #: Whether the baseline that a search has to beat puts it at sites of all kinds at once, as a number format.
    everywhere: ClassVar[bool] = False
    #: Whether its baseline follows a rule of its own, `rungs`: for each "kind" of site, or for the whole "model".
    ruled: ClassVar[str] = ""
    #: Whether a number format may follow it in a chain: what it puts in calls its weight matrices and never reads them.
    chains: ClassVar[bool] = False
    #: Whether it loses what lies far back, so that texts have to be as long as the shape for the loss to show.
    forgets: ClassVar[bool] = False
    #: Whether local distillation after `build` is worth its time.
    distils: ClassVar[bool] = False
    #: When to want it, in one sentence.
    when_it_pays: ClassVar[str]
    #: How it differs from its paper, in one sentence; "" when it does not, or has no paper.
    differs: ClassVar[str] = ""

    def unsupported_reason(self, view: SublayerView) -> str | None:
        """Why the method does not apply at this site, in plain words; None when it does."""
        return None

    @abstractmethod
    def options(self, view: SublayerView) -> list[Settings]:
        """The settings offered here, mildest first. JSON only."""

    def error(self, view: SublayerView, settings: Settings, replacement: Replacement) -> float:
        """The candidate's local error; a method whose candidate reaches beyond its site measures it itself."""
        return view.local_error(replacement)

    @abstractmethod
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        """The replacement for these settings in float32, fitted in closed form. Must not change the model."""

    def rungs(
        self, candidates: Sequence[Candidate], harm: Callable[[Sequence[Candidate]], float]
    ) -> Iterator[tuple[Settings, list[Candidate]]]:
        """Mixes of its candidates by its own rule, mildest first, each with the setting it has (`ruled`).

        harm  how far the model with these candidates in place is from the original
        """
        return iter(())


def weight_and_bias(module: Any) -> tuple[Tensor, Tensor | None]:
    """(d_out, d_in) weight and (d_out) bias of an `nn.Linear` or a transposed `Conv1D`, detached."""
    weight, bias = module.weight.detach(), module.bias
    if not isinstance(module, nn.Linear):
        weight = weight.T.contiguous()
    return weight, None if bias is None else bias.detach()


def candidate_id(site: str, method: str, settings: Settings) -> str:
    """ "layers.3.ffn/width/keep=0.5": stable, readable, and the file name of the candidate."""
    text = ",".join(f"{k}={v}" for k, v in sorted(settings.items()))
    return f"{site}/{method}/{text or 'default'}"


def each_matrix(view: SublayerView, made: Callable[[Tensor, Tensor | None], Operator]) -> Replacement:
    """Every weight matrix of the sublayer replaced by what `made` makes of its (d_out, d_in) weight and its bias."""
    parts = {path: made(*weight_and_bias(module)) for path, module in view.linears().items()}
    return [(Edit(path, part.spec(), {}), part) for path, part in parts.items()]
