"""A process that holds one peer and answers `peers.py`: it is asked for one thing at a time, and timed by itself.

    make                     -> what was built: {"version": ..., "note": ...}
    windows data count       -> token ids of held-out windows (asked of the original)
    keep_logits ids folder   writes the logits of every window (asked of the original)
    compare ids folder       -> {"kl", "agreement"} of its own logits against those
    similarity file          -> {"spearman"} of an encoder's similarities with those of a file of pairs
    prepare shape            makes ready for steps at that shape, and makes two
    step                     -> seconds of one
    environment              -> the machine and the versions

Answers are pairs (answer, ""), or (None, reason) when something fails.
"""

from __future__ import annotations

import contextlib
import csv
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

#: Tokens of a window.
LENGTH = 256


def serve(pipe: Connection, peer: str, model: str, work: str, threads: int) -> None:
    """Answer until the pipe closes."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    desk = Desk(peer, model, Path(work), threads)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            what, about = pipe.recv()
            try:
                answer: Any = getattr(desk, what)(*about), ""
            except Exception as error:  # a peer that is missing or fails is a finding, and gets its row
                answer = None, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            pipe.send(answer)


class Desk:
    """What can be asked of a peer."""

    def __init__(self, peer: str, model: str, work: Path, threads: int):
        self.peer, self.model, self.work, self.threads = peer, model, work, threads
        self.runner: Any = None
        self.timed: Any = None

    def make(self) -> dict[str, str]:
        import torch
        from peer_makers import make

        torch.set_num_threads(self.threads)
        torch.set_grad_enabled(False)
        self.runner = make(self.peer, self.model, self.work, self.threads)
        return {"version": self.runner.version}

    def windows(self, data: str, count: int) -> list[list[int]]:
        import layersmith
        from layersmith.data.examples import Reader

        model, tokenizer = layersmith.load(self.model)
        reader = Reader(model, tokenizer, data, length=LENGTH)
        rows = [example.tensors["input_ids"].flatten().tolist() for example in reader.read("heldout", count * LENGTH)]
        return rows[:count]

    def keep_logits(self, ids: list[list[int]], folder: str) -> None:
        import numpy as np

        Path(folder).mkdir(exist_ok=True)
        for number, row in enumerate(ids):
            np.save(Path(folder) / f"{number}.npy", self.runner.outputs(row).numpy())

    def compare(self, ids: list[list[int]], folder: str) -> dict[str, float]:
        import numpy as np
        import torch

        from layersmith.measuring.divergence import Divergence

        total = Divergence()
        for number, row in enumerate(ids):
            expected = torch.from_numpy(np.load(Path(folder) / f"{number}.npy"))
            total.add({"logits": expected[None]}, {"logits": self.runner.outputs(row).float()[None]})
        return {"kl": total.value, "agreement": float(total.agreement or 0.0)}

    def similarity(self, file: str) -> dict[str, float]:
        """Each sentence is the mean of its tokens' outputs, two are as alike as the cosine between them."""
        import torch
        from scipy.stats import spearmanr

        import layersmith

        _, tokenizer = layersmith.load(self.model)
        with open(file, encoding="utf-8", newline="") as handle:
            pairs = [(one, other, float(score)) for one, other, score in csv.reader(handle)]
        found = {text: self.runner.outputs(tokenizer(text)["input_ids"]).mean(0) for p in pairs for text in p[:2]}
        alike = [float(torch.cosine_similarity(found[one], found[other], 0)) for one, other, _ in pairs]
        return {"spearman": float(spearmanr(alike, [score for *_, score in pairs]).statistic)}

    def prepare(self, shape: str) -> None:
        self.timed = None
        phase, _, size = shape.partition("=")
        tokens = int(size.partition("x")[2])
        self.timed = self.runner.prefill(tokens) if phase == "prefill" else self.runner.decode(tokens)
        for _ in range(2):
            self.timed()

    def step(self) -> float:
        self.timed.before()
        start = time.perf_counter()
        self.timed.run()
        return time.perf_counter() - start

    def environment(self) -> dict[str, Any]:
        from layersmith.measuring.environment import environment

        return environment()
