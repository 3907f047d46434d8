"""What does a user get from other runtimes and number formats, beside the original and beside our results, in one run?

    python benchmarks/peers.py [MODEL] [--ours FOLDER ...] [--data FILE] [--peers NAME,...] [--compile]
    python benchmarks/peers.py ENCODER --sentences FILE --at prefill=1x128 [--ours FOLDER ...]

Each peer runs in a process of its own, so that no thread pool disturbs another. In every round every one of them is
asked for one step, in shuffled order, while the others wait; ratios are formed within rounds. Prefill 1x512 computes
the logits of all tokens, decode 1x128 those of one token after 128 cached ones. KL is that from the original, on the
same held-out windows. A peer that is not installed, or fails, gets a row that says why; so does a phase it lacks.

An encoder of sentences is judged by what it is for: FILE has lines "sentence,sentence,score" (the development set of
STS-B, say), and the figure is Spearman's correlation of the scores with the cosines of the means of its outputs.

Peers (`--peers` takes parts of these names): see `peer_makers.py`, or `--list`. Writes results/peers-MODEL.csv.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from peer_makers import COMPILED, PEERS
from peer_worker import serve
from record import save_csv

ORIGINAL = "original"
SHAPES = ("prefill=1x512", "decode=1x128")
#: Seconds of rest between two processes' turns, for threads that spin after their last work.
REST = 0.05


class Worker(Protocol):
    """One peer, wherever it runs. `ask` raises RuntimeError with the reason when it cannot do what it was asked."""

    def ask(self, what: str, *about: Any) -> Any: ...


class Process:
    """A peer in a process of its own."""

    def __init__(self, peer: str, model: str, work: Path, threads: int):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, peer, model, str(work), threads), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, what: str, *about: Any) -> Any:
        try:
            self._pipe.send((what, about))
            answer, reason = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError("its process ended") from error
        if reason:
            raise RuntimeError(reason)
        return answer

    def end(self) -> None:
        self._process.terminate()
        self._process.join()


def main(given: Sequence[str] | None = None) -> Path | None:
    arguments = _arguments(given)
    chosen = _chosen(arguments.peers, arguments.compile) + [f"layersmith {folder}" for folder in arguments.ours]
    if arguments.list:
        print("\n".join(chosen))
        return None
    workers: dict[str, Process] = {}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            rows = run(arguments, chosen, workers, Path(arguments.work or scratch))
            conditions = workers[ORIGINAL].ask("environment")
        finally:
            for worker in workers.values():
                worker.end()
    name = Path(arguments.model).stem
    path = save_csv(f"peers-{name}", [{"model": name, **row} for row in rows], conditions)
    print(path)
    return path


def run(arguments: argparse.Namespace, chosen: list[str], workers: dict[str, Process], work: Path) -> list[dict]:
    """Start all, compare all, time all. `workers` is filled as they start, so that the caller can end them."""
    work.mkdir(parents=True, exist_ok=True)
    rows = {name: {"variant": name, "missing": "", "version": ""} for name in chosen}
    for name in chosen:
        start = time.perf_counter()
        workers[name] = Process(name, arguments.model, work, arguments.threads)
        _fill(rows[name], "missing", lambda name=name: rows[name].update(workers[name].ask("make")))
        told = rows[name]["missing"] or f"ready after {time.perf_counter() - start:.0f} s"
        print(f"{name:<44} {told}", flush=True)
        if rows[name]["missing"]:
            workers[name].end()
    ready = {name: workers[name] for name in chosen if not rows[name]["missing"]}
    if ORIGINAL not in ready:
        raise SystemExit(f"the original itself cannot be run: {rows[ORIGINAL]['missing']}")
    if arguments.sentences:
        judge(ready, rows, arguments.sentences)
    else:
        compare(ready, rows, arguments.data, arguments.windows, work)
    for shape in arguments.at:
        rounds = arguments.rounds if shape.startswith("prefill") else 3 * arguments.rounds
        time_all(ready, rows, shape, rounds)
    return list(rows.values())


def compare(workers: dict[str, Worker], rows: dict[str, dict], data: str, windows: int, work: Path) -> None:
    """Fill in how far everyone's predictions are from the original's, on the same windows."""
    ids = workers[ORIGINAL].ask("windows", data, windows)
    workers[ORIGINAL].ask("keep_logits", ids, str(work / "logits"))
    for name, worker in workers.items():
        found = {}
        _fill(rows[name], "missing", lambda w=worker, f=found: f.update(w.ask("compare", ids, str(work / "logits"))))
        rows[name] |= found | {"data": data, "windows": windows}
        if found:
            print(f"{name:<44} KL {found['kl']:.2e}  same next token {found['agreement']:.1%}", flush=True)


def judge(workers: dict[str, Worker], rows: dict[str, dict], file: str) -> None:
    """Fill in how well the encoders tell what sentences are alike."""
    for name, worker in workers.items():
        found: dict[str, float] = {}
        _fill(rows[name], "missing", lambda w=worker, f=found: f.update(w.ask("similarity", file)))
        rows[name] |= found | {"data": Path(file).name}
        if found:
            print(f"{name:<44} Spearman {found['spearman']:.4f}", flush=True)


def time_all(workers: dict[str, Worker], rows: dict[str, dict], shape: str, rounds: int, rest: float = REST) -> None:
    """Fill in milliseconds at a shape and the median over rounds of the ratio to the original in the same round."""
    phase = shape.partition("=")[0]
    able = {}
    for name, worker in workers.items():
        reason = {f"{phase}_missing": ""}
        _fill(reason, f"{phase}_missing", lambda w=worker: w.ask("prepare", shape))
        rows[name] |= reason
        if not reason[f"{phase}_missing"]:
            able[name] = worker
    seconds: dict[str, list[float]] = {name: [] for name in able}
    order, shuffler = list(able), random.Random(0)
    for _ in range(rounds):
        shuffler.shuffle(order)
        for name in order:
            time.sleep(rest)
            seconds[name].append(able[name].ask("step"))
    for name, taken in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(taken, seconds[ORIGINAL], strict=True))
        rows[name] |= {f"{phase}_ratio": ratio, f"{phase}_ms": statistics.median(taken) * 1e3}
        rows[name] |= {f"{phase}_at": shape, f"{phase}_rounds": rounds}
        print(f"{name:<44} {shape} {ratio:.3f}x  {rows[name][f'{phase}_ms']:.2f} ms", flush=True)


def _fill(row: dict[str, Any], key: str, ask: Any) -> None:
    """Ask; where that fails, the reason stands in the row."""
    try:
        ask()
    except RuntimeError as error:
        row[key] = str(error)


def _chosen(asked: str | None, compiled: bool) -> list[str]:
    """Names of the peers whose name holds one of the asked pieces; the original always, first."""
    names = [name for name in PEERS if compiled or name not in COMPILED]
    pieces = [piece.strip() for piece in asked.split(",")] if asked else [""]
    unknown = [piece for piece in pieces if not any(piece in name for name in PEERS)]
    if unknown:
        raise SystemExit(f"no peer is called {unknown[0]!r}; there are: {', '.join(PEERS)}")
    found = [name for name in names if any(piece in name for piece in pieces)]
    return [ORIGINAL, *(name for name in found if name != ORIGINAL)]


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model",
        nargs="?",
        default="pocket",
        help="a causal Llama, or an encoder with --sentences: a folder, a .gguf file, or pocket",
    )
    parser.add_argument("--ours", nargs="*", default=[], help="folders of layersmith results of this model")
    parser.add_argument("--peers", help="only those whose names hold one of these, separated by commas")
    parser.add_argument("--data", default="stdlib", help="the text KL is measured on: stdlib or a file")
    parser.add_argument("--sentences", help="pairs of sentences and how alike they are, for an encoder")
    parser.add_argument("--at", nargs="*", default=list(SHAPES), help="shapes that are timed")
    parser.add_argument("--windows", type=int, default=4, help="windows of 256 tokens KL is measured on")
    parser.add_argument("--rounds", type=int, default=20, help="rounds at prefill; three times as many at decode")
    parser.add_argument("--threads", type=int, default=2, help="threads of each runtime")
    parser.add_argument("--work", help="keep converted files here and use those that are there (default: nowhere)")
    parser.add_argument("--compile", action="store_true", help="torch.compile too: a minute more for each of its rows")
    parser.add_argument("--list", action="store_true", help="print the peers and stop")
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
