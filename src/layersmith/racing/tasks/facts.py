"""Facts: learn by heart what each relation makes of each subject.

    subject relation        asked at the relation:  object

For every relation the objects are a random permutation of the subjects, so nothing can be inferred and everything has
to be stored. All splits hold the same facts: what is measured is how many fit into a model, not what it infers.

With a `tail`, subject number i is trained on with a probability in proportion to i^-tail (Zipf's law for 1), and all
facts count alike when they are judged: what is measured is mostly how well rare facts are learnt.

Papers: "Geometric Factual Recall in Transformers" (its subjects have attributes; here they are permuted); rare facts:
"Muon Outperforms Adam in Tail-End Associative Memory Learning".
"""

from __future__ import annotations

import torch

from layersmith.racing.task import IGNORED, Batch, Split, Task
from layersmith.racing.tasks.shared.checks import number, whole


class Facts(Task):
    """
    n_subjects   how many subjects (and objects) there are
    n_relations  how many facts there are of each
    seed         of the facts
    tail         how fast subjects become rare in training; 0: all are as frequent
    """

    name = "facts"
    summary = "Learn random facts (subject, relation, object) by heart."
    papers = ("geometric-factual-recall-transformers", "muon-outperforms-adam-tail-end")

    def __init__(self, n_subjects: int = 512, n_relations: int = 4, seed: int = 0, tail: float = 0.0):
        self.n_subjects, self.n_relations = whole("n_subjects", n_subjects, 2), whole("n_relations", n_relations, 1)
        generator = torch.Generator().manual_seed(whole("seed", seed, 0))
        self.objects = torch.stack(
            [torch.randperm(n_subjects, generator=generator, device="cpu") for _ in range(n_relations)]
        )
        self.frequency = torch.arange(1, n_subjects + 1, device="cpu").double() ** -number("tail", tail, 0, 10)
        self.n_inputs = self.n_outputs = n_subjects + n_relations
        self.tokens = 2

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        if split == "train" and self.frequency[-1] < 1:
            subjects = torch.multinomial(self.frequency, size, replacement=True, generator=generator)
        else:
            subjects = torch.randint(self.n_subjects, (size,), generator=generator, device="cpu")
        relations = torch.randint(self.n_relations, (size,), generator=generator, device="cpu")
        targets = torch.full((size, 2), IGNORED)
        targets[:, 1] = self.objects[relations, subjects]
        return Batch(torch.stack([subjects, self.n_subjects + relations], 1), targets)

    def yardsticks(self) -> dict[str, float]:
        """random: one of the objects."""
        return {"random": 1 / self.n_subjects, "oracle": 1.0}
