"""Labels in context or by heart: which of the two a model learns depends on how the training data are spread.

    item label item label ... item        asked at the last item: its label

An item is its class's prototype, a normal vector, plus noise; its label is the number of its class. In a bursty
sequence the class asked for stands three times among the eight items before it, and one other class three times too:
the label can be copied. In all others the classes are drawn one by one, so it mostly has to be known by heart.

    asks: context     judged on two classes that are new in every sequence, four items of each, called 0 and 1
    asks: relabelled  the same with two trained classes, whose own labels are others: knowing them by heart misleads
    asks: weights     judged on trained classes, each as often, none of which stands in the sequence before

Training is the same for both. With a `tail`, class i is drawn in proportion to i^-tail (Zipf's law for 1).

With `bursts: 1` both ways are right in all of training, and it is seen which of them a model takes to, and for how
long: labels from the prompt come first, and may be given up again for labels known by heart.

Papers: "Data Distributional Properties Drive Emergent In-Context Learning in Transformers" (the sequence, its counts,
bursts, Zipf's law, noise within classes; counts from memory); "The Transient Nature of Emergent In-Context Learning in
Transformers" (bursts alone, and both questions through long training; weight decay keeps labels from the prompt).
Differs from the papers: normal prototypes instead of Omniglot's pictures; a class has one label.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from layersmith.racing.task import IGNORED, Batch, Split, Task
from layersmith.racing.tasks.shared.checks import number, one_of, whole
from layersmith.racing.tasks.shared.drawing import distinct, judged

ASKS = ("context", "relabelled", "weights")
ITEMS, BURST, SHOTS = 8, 3, 4


class Bursty(Task):
    """
    asks       context, relabelled or weights: what "valid" and "test" judge
    bursts     share of training sequences that are bursty
    tail       how fast classes become rare in training; 0: all are as frequent
    n_classes  trained classes, and labels
    n_dims     length of an item
    noise      standard deviation of an item around its prototype, in every coordinate
    seed       of the prototypes
    """

    name = "bursty"
    summary = "Label an item by its neighbours in the prompt or by heart, trained on more or less bursty data."
    papers = ("data-distributional-properties-drive-emergent", "transient-nature-emergent-context-learning")
    reads = "features"

    def __init__(
        self,
        asks: str = "context",
        bursts: float = 0.9,
        tail: float = 0.0,
        n_classes: int = 256,
        n_dims: int = 16,
        noise: float = 0.3,
        seed: int = 0,
    ):
        self.asks, self.bursts = one_of("asks", asks, ASKS), number("bursts", bursts, 0, 1)
        self.n_classes, self.n_dims = whole("n_classes", n_classes, ITEMS + 1), whole("n_dims", n_dims, 1)
        self.noise = number("noise", noise, 0, 10)
        self.frequency = torch.arange(1, n_classes + 1, device="cpu").double() ** -number("tail", tail, 0, 10)
        random = np.random.default_rng(whole("seed", seed, 0))  # no stream that examples are drawn from
        self.prototypes = torch.from_numpy(random.standard_normal((n_classes, n_dims), dtype=np.float32))
        self.n_inputs, self.n_outputs, self.tokens = n_dims + n_classes, n_classes, 2 * ITEMS + 1

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        if split != "train" and self.asks != "weights":
            prototypes = self._two(generator, size)
            labels = torch.arange(2).repeat(SHOTS)[distinct(generator, size, ITEMS, ITEMS)]
            asked = torch.randint(2, (size, 1), generator=generator, device="cpu")
            labels = torch.cat([labels, asked], 1)
            means = prototypes.gather(1, labels[..., None].expand(-1, -1, self.n_dims))
        else:
            labels = self._classes(generator, size) if split == "train" else self._unseen(generator, size)
            means = self.prototypes[labels]
        items = means + self.noise * torch.randn(means.shape, generator=generator, device="cpu")
        inputs = torch.zeros(size, self.tokens, self.n_inputs)
        inputs[:, 0::2, : self.n_dims] = items
        inputs[:, 1::2, self.n_dims :] = torch.nn.functional.one_hot(labels[:, :-1], self.n_classes).float()
        targets = torch.full((size, self.tokens), IGNORED)
        targets[:, -1] = labels[:, -1]
        return Batch(inputs, targets)

    def _two(self, generator: torch.Generator, size: int) -> Tensor:
        """Prototypes of the classes called 0 and 1, (B, 2, d): new ones, or trained ones but for the first two."""
        if self.asks == "context":
            return torch.randn(size, 2, self.n_dims, generator=generator, device="cpu")
        return self.prototypes[2 + distinct(generator, size, self.n_classes - 2, 2)]

    def yardsticks(self) -> dict[str, float]:
        """random: one of the labels that can be right; linear: the trained class whose prototype is nearest, known
        by heart; oracle: the likeliest of the labels that can be right. Both on 2048 sequences."""
        batch = judged(self)
        asked, answers = batch.inputs[:, -1, : self.n_dims].double(), batch.targets[:, -1]
        distances = torch.cdist(asked, self.prototypes.double())
        if self.asks == "weights":
            before = batch.inputs[:, 1::2, self.n_dims :].sum(1) > 0
            guess = distances.masked_fill(before, torch.inf).argmin(1)
        elif self.asks == "context":
            guess = self._nearer_mean(batch.inputs)
        else:
            guess = self._likelier_class(batch.inputs)
        return {
            "random": 1 / self.n_classes if self.asks == "weights" else 0.5,
            "linear": float((distances.argmin(1) == answers).double().mean()),
            "oracle": float((guess == answers).double().mean()),
        }

    def _nearer_mean(self, inputs: Tensor) -> Tensor:
        """0 or 1: of which of two new classes the last item is likelier one. Prototypes are N(0, I), so that a class is
        expected at its four items' mean, shrunk; both have as many items, and the nearer one is the likelier."""
        items, labels = inputs[:, 0::2, : self.n_dims].double(), inputs[:, 1::2, self.n_dims :].double()
        shrunk = SHOTS / (SHOTS + self.noise**2)
        means = shrunk * labels[..., :2].mT @ items[:, :-1] / SHOTS
        return torch.cdist(items[:, -1:], means)[:, 0].argmin(1)

    def _likelier_class(self, inputs: Tensor) -> Tensor:
        """0 or 1: of which of two trained classes the last item is likelier one, where four items tell what each is."""
        items, labels = inputs[:, 0::2, : self.n_dims].double(), inputs[:, 1::2, self.n_dims :].double()
        variance = max(self.noise, 1e-3) ** 2
        fits = -torch.cdist(items, self.prototypes[2:].double()).square() / (2 * variance)  # (B, 9, classes)
        chances = (labels[..., :2].mT @ fits[:, :-1]).softmax(-1)
        others = 1 - chances.flip(1)  # the two are never the same
        asked = (fits[:, -1:] - fits[:, -1:].amax(-1, keepdim=True)).exp()
        return (chances * others * asked).sum(-1).argmax(1)

    def _classes(self, generator: torch.Generator, size: int) -> Tensor:
        """Classes of training sequences, the one asked for last: (B, 9)."""
        free = self._drawn(generator, size * (ITEMS + 1)).view(size, ITEMS + 1)
        bursty = torch.rand(size, 1, generator=generator, device="cpu") < self.bursts
        asked, other = free[:, -1:], free[:, :1]
        burst = torch.cat([asked.expand(-1, BURST), other.expand(-1, BURST), free[:, 1 : ITEMS + 1 - 2 * BURST]], 1)
        burst = burst.gather(1, distinct(generator, size, ITEMS, ITEMS))
        return torch.cat([torch.where(bursty, burst, free[:, :-1]), asked], 1)

    def _unseen(self, generator: torch.Generator, size: int) -> Tensor:
        """Nine different classes, each as likely: what stands before says nothing."""
        return distinct(generator, size, self.n_classes, ITEMS + 1)

    def _drawn(self, generator: torch.Generator, count: int) -> Tensor:
        if self.frequency[-1] < 1:
            return torch.multinomial(self.frequency, count, replacement=True, generator=generator)
        return torch.randint(self.n_classes, (count,), generator=generator, device="cpu")
