"""What a task of a race is: a stream of batches drawn from a seed, what is asked of a model, and how it is scored.

A task draws every batch from the generator it is given and keeps nothing, so that two entrants with one seed see the
same data in the same order, and a trial can go on after a kill.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: What is drawn to train on, to choose settings by, and to report; a task with a length split adds "longer".
Split = Literal["train", "valid", "test", "longer"]
#: Targets that are not judged.
IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """
    inputs   token ids (B, T) int64, or features (B, T, n_inputs) float32
    targets  of "tokens": ids (B, T) int64, what the output at position t has to be, `IGNORED` where nothing is asked;
             of "class": (B,) int64;  of "real": (B, T, n_outputs) float32, NaN where nothing is asked
    """

    inputs: Tensor
    targets: Tensor


class Task(ABC):
    """One question for models. Constructor arguments are its settings, all with defaults; ValueError for bad ones."""

    #: Name on the command line.
    name: ClassVar[str]
    #: What it asks, in one sentence.
    summary: ClassVar[str]
    #: Ids of source papers.
    papers: ClassVar[tuple[str, ...]] = ()
    #: Whether a model reads token ids or vectors of features.
    reads: ClassVar[Literal["tokens", "features"]] = "tokens"
    #: Whether it gives a distribution over tokens at every position, over classes once, or numbers at every position.
    writes: ClassVar[Literal["tokens", "class", "real"]] = "tokens"
    #: Of numbers: whether they are asked once, at the last position.
    once: ClassVar[bool] = False
    #: Whether a position may see only those before it.
    causal: ClassVar[bool] = True
    #: What `score` is, with its unit; settings may decide on it.
    metric: str = "accuracy"
    higher_is_better: bool = True
    splits: ClassVar[tuple[Split, ...]] = ("train", "valid", "test")
    #: Settings that say how a trained model is judged and nothing of what is learned: entrants may differ in them.
    judging: ClassVar[tuple[str, ...]] = ()

    #: Size of the vocabulary, or width of the features, of the inputs and of the outputs.
    n_inputs: int
    n_outputs: int
    #: Positions in an input.
    tokens: int

    @abstractmethod
    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        """`size` fresh examples. `generator` is on the CPU, and so is the batch."""

    @abstractmethod
    def yardsticks(self) -> dict[str, float]:
        """Scores on "test" that need no training: "random" always; "oracle", "linear" and others where known."""

    def check(self, model: nn.Module) -> None:  # noqa: B027 - most tasks take any model
        """Raise a UserError for a model that cannot be judged as the settings say."""

    def made(self, model: nn.Module) -> float | None:
        """The score of what a trained model makes by itself; None where its outputs on "test" are judged."""
        return None

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """What training lowers: cross entropy in nats, or mean squared error, over what is asked.

        outputs  "tokens": logits (B, T, n_outputs); "class": logits (B, n_outputs); "real": (B, T, n_outputs)
        """
        if self.writes == "real":
            asked = ~batch.targets.isnan()
            return (outputs[asked] - batch.targets[asked]).square().mean()
        return F.cross_entropy(outputs.flatten(0, -2).float(), batch.targets.flatten(), ignore_index=IGNORED)

    def score(self, outputs: Tensor, batch: Batch) -> float:
        """Share of what is asked that is right; for "real" the mean squared error."""
        if self.writes == "real":
            return float(self.loss(outputs, batch))
        asked = batch.targets != IGNORED
        return float((outputs.argmax(-1) == batch.targets)[asked].double().mean())
