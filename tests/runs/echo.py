"""A worker for tests: what it does stands in its job."""

import os
import signal
import time

from layersmith.runs.processes import serve


def work(job):
    os.system("echo a foreign line on standard output")  # as a model's own code may print
    print("and one more")  # noqa: T201
    for name in job["names"]:
        if name == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif name == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif name == "fail":
            raise RuntimeError("as asked")
        elif name == "wait":
            with open(job["here"], "w") as file:
                file.write(str(os.getpid()))
            time.sleep(600)
        yield name


if __name__ == "__main__":
    serve(work)
