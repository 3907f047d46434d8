"""Work shared out to processes of this machine: both ends of the pipes between a run and its workers.

A worker is `python -m MODULE` whose `main` calls `serve`. Its job comes as one line of JSON through its standard input;
it answers, one JSON line each, what it has finished, and empty lines in between that only say that it is alive.

    a worker that ends or fails    its standard output closes, and the run goes on without it
    one that is stopped (SIGSTOP)  is silent for SILENCE seconds, and is killed
    a run that ends, however       its end of the worker's standard input closes, and the worker ends itself

Why not `concurrent.futures.ProcessPoolExecutor`: its processes import the user's script again (which then needs an
`if __name__ == "__main__"`), they live on when the run is killed, and a stopped one blocks it for ever.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, Any

#: Seconds between two signs of life, and how many of silence mean that none will follow.
BEAT, SILENCE = 2.0, 60.0

Job = dict[str, Any]


class Worker:
    """The run's end: one process, and what it has said."""

    def __init__(self, module: str, job: Job, environment: dict[str, str]):
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
        )
        self.done: list[Any] = []
        self.silent = 0.0
        self.ended = False
        self._partial = b""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already, as `hear` will find
            self.process.stdin.write(json.dumps(job).encode() + b"\n")
            self.process.stdin.flush()

    @property
    def answers(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def hear(self) -> None:
        """Take in what has come."""
        data = os.read(self.answers.fileno(), 1 << 16)
        self.silent, self.ended = 0.0, not data
        *lines, self._partial = (self._partial + data).split(b"\n")
        self.done += [json.loads(line) for line in lines if line]

    def end(self) -> None:
        """No process is left after this, and its files are whole: those of a workspace are at every moment."""
        if self.ended:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(SILENCE)
        self.process.kill()  # which reaches a stopped process too
        self.process.communicate()

    def ending(self) -> str:
        """How it ended, for a note."""
        return f"ended with status {self.process.returncode}" if self.ended else f"was silent for {SILENCE:g} seconds"


def share_out(module: str, jobs: list[Job], environment: dict[str, str], tell: Callable[[int], None]) -> list[Worker]:
    """Run a worker for each job until all have ended; `tell` hears how many things are finished.

    Never raises for what a worker does: see `Worker.done` for what came of a job. When this is left by an error (or an
    interruption) no worker lives on.
    """
    workers: list[Worker] = []
    try:
        for job in jobs:
            workers.append(Worker(module, job, environment))
        _listen(workers, lambda: tell(sum(len(worker.done) for worker in workers)))
        return workers
    finally:
        for worker in workers:
            worker.end()


def _listen(workers: list[Worker], told: Callable[[], None]) -> None:
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker.answers, selectors.EVENT_READ, worker)
        before = time.monotonic()
        while selector.get_map():
            for key, _ in selector.select(BEAT):
                key.data.hear()
                told()
            # While the whole run was stopped the clock went on: a step counts for no more than two beats.
            now = time.monotonic()
            step, before = min(now - before, 2 * BEAT), now
            for key in list(selector.get_map().values()):
                key.data.silent += step
                if key.data.ended or key.data.silent > SILENCE:
                    selector.unregister(key.fileobj)


def serve(work: Callable[[Job], Iterator[Any]]) -> None:
    """The worker's end: do the job that comes, and answer with whatever `work` yields (JSON)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the run ends this one
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # a model's own code may print
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_run, daemon=True).start()
    threading.Thread(target=_beat, args=(answers,), daemon=True).start()
    for done in work(job):
        answers.write(json.dumps(done).encode() + b"\n")


def _end_with_the_run() -> None:
    while os.read(0, 4096):  # not through sys.stdin, whose lock would be held when the interpreter shuts down
        pass
    os._exit(1)


def _beat(answers: IO[bytes]) -> None:
    while True:
        time.sleep(BEAT)
        answers.write(b"\n")
