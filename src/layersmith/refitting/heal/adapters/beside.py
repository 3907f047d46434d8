"""Adapters that stay: a part of the catalogue around every plain feed-forward of a model, trained while that is not."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import nn

from layersmith.anatomy import Anatomy
from layersmith.anatomy.edit import Replacement, apply
from layersmith.anatomy.recognise import as_ffn
from layersmith.anatomy.sites import find_sites
from layersmith.anatomy.swap import replacement_for
from layersmith.contract import FeedForward
from layersmith.errors import UserError
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.refitting.heal.adapters.adapter import Adapter
from layersmith.refitting.heal.adapters.frozen import frozen


class Beside(Adapter):
    """One such adapter. `part` holds the feed-forward that was there as `dense`, and what is trained beside it."""

    #: Class of the part.
    part: ClassVar[type[FeedForward]]

    @abstractmethod
    def around(self, dense: GLU | MLP) -> FeedForward:
        """The part around a trained feed-forward, which computes the same."""

    def check(self, model: nn.Module, anatomy: Anatomy) -> None:
        if all(as_ffn(model, site) is None for site in find_sites(model).of_kind("ffn")):
            raise self._no_place(model)

    def place(self, model: nn.Module, seed: int) -> Replacement:
        replacement: Replacement = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for site in find_sites(model).of_kind("ffn"):
                found = as_ffn(model, site)
                if found is not None:
                    replacement += replacement_for(model, site, self.around(found.operator).eval())
        apply(model, replacement)
        return replacement

    @contextmanager
    def training(self, model: nn.Module, anatomy: Anatomy, seed: int) -> Iterator[None]:
        parts = [module for module in model.modules() if isinstance(module, self.part)]
        if not parts:
            raise self._no_place(model)
        with frozen(model):
            for part in parts:
                for name, parameter in part.named_parameters():
                    parameter.requires_grad_(not name.startswith("dense."))
            yield

    def _no_place(self, model: nn.Module) -> UserError:
        return UserError(
            f"{self.name} stands around plain and gated feed-forwards, and none of {type(model).__name__} is one. "
            f"Heal it by lora, or heal its weights themselves: leave --heal-adapter out."
        )
