"""The folder that makes a run resumable: every result is a file that is either whole and verified, or absent.

A file is written beside its place, checksummed, moved into place, and only then vouched for by `NAME.sha256`. A kill
at any byte therefore leaves at worst a file nobody vouches for; a truncated or bit-flipped file fails its checksum.
Both read as "not there", so the stage that makes it makes it again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from layersmith.errors import UserError


class Workspace:
    """`OUT/workspace` of one run.

    identity  JSON that says which run this is (model fingerprint, settings). A folder that holds another run is
              refused; the same identity goes on where it was.
    """

    def __init__(self, out: Path, identity: dict[str, Any], on_rebuild: Callable[[str], None] = lambda name: None):
        self.out = out
        self.root = out / "workspace"
        self.on_rebuild = on_rebuild
        _refuse_a_foreign_folder(out)
        self._guard(lambda: self.root.mkdir(parents=True, exist_ok=True))
        self._lock = self._take_lock()
        found = self.load_json("run")
        if found is None or not self._holds_work():
            self.save_json("run", identity)
        elif found != json.loads(json.dumps(identity)):
            changed = sorted(k for k in {*found, *identity} if found.get(k) != identity.get(k))
            raise UserError(
                f"{out} holds another run (it differs in: {', '.join(changed)}). Give a different --out, or delete "
                f"that folder to start over. Nothing was changed."
            )

    @classmethod
    def joined(cls, out: Path) -> Workspace:
        """The workspace of a run that another process holds, for a worker of that run. It takes no lock."""
        workspace = cls.__new__(cls)
        workspace.out, workspace.root, workspace.on_rebuild = out, out / "workspace", lambda name: None
        return workspace

    def close(self) -> None:
        self._lock.close()

    # -- JSON ---------------------------------------------------------------------------------------------------

    def save_json(self, name: str, data: Any) -> None:
        def write(path: Path) -> None:
            path.write_text(json.dumps(data, indent=1))

        self._commit(self._path(name, ".json"), write)

    def load_json(self, name: str) -> Any | None:
        """What `save_json` stored under that name, or None when it is absent or damaged."""
        path = self._path(name, ".json")
        return json.loads(path.read_text()) if self._vouched(path) else None

    # -- tensors ------------------------------------------------------------------------------------------------

    def save_tensors(self, name: str, tensors: dict[str, Tensor]) -> None:
        whole = {k: _own_storage(t.detach().to("cpu").contiguous()) for k, t in tensors.items()}
        self._commit(self._path(name, ".safetensors"), lambda path: save_file(whole, path))

    def load_tensors(self, name: str) -> dict[str, Tensor] | None:
        """What `save_tensors` stored under that name, or None when it is absent or damaged."""
        path = self._path(name, ".safetensors")
        return load_file(path) if self._vouched(path) else None

    def has_tensors(self, name: str) -> bool:
        return self._vouched(self._path(name, ".safetensors"))

    def remove(self, name: str) -> None:
        """Forget both kinds of files of that name."""
        for suffix in (".json", ".safetensors"):
            path = self._path(name, suffix)
            _seal(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def _holds_work(self) -> bool:
        # Every stage keeps its results in a folder of its own; a run that was refused for its input has made none, and
        # the corrected command may have its place.
        return any(path.is_dir() for path in self.root.iterdir())

    # -- how a file becomes true --------------------------------------------------------------------------------

    def _path(self, name: str, suffix: str) -> Path:
        path = (self.root / (name + suffix)).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise UserError(f"The workspace name {name!r} would leave the workspace folder; it is refused.")
        return path

    def _commit(self, path: Path, write: Callable[[Path], None]) -> None:
        def steps() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(path.name + ".new")
            _seal(path).unlink(missing_ok=True)
            write(fresh)
            digest = _digest(fresh)
            os.replace(fresh, path)
            seal = _seal(path)
            fresh_seal = seal.with_name(seal.name + ".new")
            fresh_seal.write_text(digest)
            os.replace(fresh_seal, seal)

        self._guard(steps)

    def _vouched(self, path: Path) -> bool:
        if not path.exists():
            return False
        seal = _seal(path)
        if seal.exists() and seal.read_text() == _digest(path):
            return True
        self.on_rebuild(str(path.relative_to(self.root)))
        seal.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        return False

    def _guard(self, steps: Callable[[], None]) -> None:
        """Run file operations; a full disk or a forbidden folder becomes a clear message (and loses nothing)."""
        try:
            steps()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                free = shutil.disk_usage(self.out.parent).free / 1e6
                raise UserError(
                    f"The disk that holds {self.out} is full ({free:.0f} MB free). Free some space and run the same "
                    f"command again: finished work is kept."
                ) from error
            if isinstance(error, PermissionError):
                raise UserError(f"Cannot write to {self.out}: {error.strerror}. Choose another --out.") from error
            raise

    def _take_lock(self) -> IO[str]:
        handle = (self.root / "lock").open("w")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.close()
            raise UserError(
                f"Another process is working in {self.out}. Wait for it, or choose another --out."
            ) from error
        return handle


def _refuse_a_foreign_folder(out: Path) -> None:
    """A non-empty folder without our workspace is somebody's data, not ours to write into."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out must be a folder.")
    if out.is_dir() and any(out.iterdir()) and not (out / "workspace").is_dir():
        raise UserError(f"{out} exists, is not empty and holds no layersmith run. Give a new folder as --out.")


def _own_storage(tensor: Tensor) -> Tensor:
    """safetensors refuses views into larger storages; only those are copied, because whole models pass here."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size() else tensor.clone()


def _seal(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
