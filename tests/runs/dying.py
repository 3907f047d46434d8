"""Deaths for tests: a process that dies at its n-th file operation, and files that do not survive it well."""

import os
from pathlib import Path

from layersmith.runs import workspace as workspaces


class Killed(BaseException):
    """Not an Exception: nothing may handle it, as nothing handles SIGKILL."""


class Dying:
    """The file operations a workspace makes; the one numbered `step` happens by half, or not at all.

    Every later one fails too: the dead write nothing.
    """

    def __init__(self, monkeypatch, step):
        self.left = step
        for place, name in ((Path, "write_text"), (Path, "unlink"), (os, "replace"), (os, "fsync")):
            monkeypatch.setattr(place, name, self.dying(getattr(place, name), name))
        monkeypatch.setattr(workspaces, "save_file", self.dying(workspaces.save_file, "save_file"))

    def dying(self, real, name):
        def call(*args, **kwargs):
            self.left -= 1
            if self.left >= 0:
                return real(*args, **kwargs)
            if self.left == -1 and name in ("write_text", "save_file"):
                path = args[0] if name == "write_text" else args[1]
                real(*args, **kwargs)
                path.write_bytes(path.read_bytes()[:-7])
            raise Killed

        return call


DAMAGES = ("truncated", "bit-flipped", "emptied", "lengthened")


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "truncated":
        data = data[: len(data) // 2]
    elif how == "bit-flipped":
        data[len(data) // 2] ^= 0x90  # never valid UTF-8 in a text
    elif how == "emptied":
        data = bytearray()
    else:
        data += b"\x00\xff"
    path.write_bytes(bytes(data))
