"""The folder that makes a run resumable: every result is a file that is either whole and verified, or absent.

A file is written beside its place and so is its checksum; then the file is moved into place, then the checksum. The old
one is vouched for by `NAME.sha256` until the new one is there, and that one at first by `NAME.sha256.new`: a kill at
any byte leaves the old file or the new one. A damaged file fails its checksum and reads as "not there", so the stage
that makes it makes it again.

The lock goes when its process does, however that ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file
from torch import Tensor

from layersmith.disk import missing, remove_empty, writing
from layersmith.errors import UserError
from layersmith.names import holds_run
from layersmith.runs.identity import differences, digest_of

#: Of the files in a workspace, and of what they are called. Raised when a file that is read changes its form.
FORMAT = 6


class Workspace:
    """`OUT/workspace` of one run.

    identity  JSON that says which run this is (`runs/identity.py`). A folder that holds another run, or one of another
              format, is refused; the same identity goes on where it was.
    """

    def __init__(self, out: Path, identity: dict[str, Any], on_rebuild: Callable[[str], None] = lambda name: None):
        # Once, at the start: a later change of the working directory, or a link, cannot move the run.
        self.out = out.resolve()
        self.root = self.out / "workspace"
        self.on_rebuild = on_rebuild
        refuse_a_foreign_folder(self.out)
        self._made = missing(self.root)
        with writing(self.out):
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock = self._take_lock()
        try:
            self._settle(json.loads(json.dumps({"format": FORMAT, **identity})))
        except BaseException:
            self.close()
            raise

    @classmethod
    def joined(cls, out: Path) -> Workspace:
        """The workspace of a run that another process holds, for a worker of that run. It takes no lock."""
        workspace = cls.__new__(cls)
        workspace.out, workspace.on_rebuild = out.resolve(), lambda name: None
        workspace.root = workspace.out / "workspace"
        return workspace

    def close(self) -> None:
        """Let go of the lock. A run that ended before it stored anything leaves no folder of its making behind."""
        if self._made and not self._holds_work():
            shutil.rmtree(self.root, ignore_errors=True)
            remove_empty(self._made)
        self._lock.release()

    # -- whose it is --------------------------------------------------------------------------------------------

    def identity(self) -> dict[str, Any] | None:
        """What the run here was made from; None when nothing says so, or says so reliably. Nothing is changed."""
        try:
            found = json.loads((self.root / "run.json").read_bytes())
        except (OSError, ValueError):
            return None
        whole = isinstance(found, dict) and found.pop("digest", None) == digest_of(found)
        return found if whole else None

    def _settle(self, wanted: dict[str, Any]) -> None:
        """Begin here, or go on; UserError when the finished work here is not this run's."""
        found = self.identity()
        if not self._holds_work():
            self._clear()
            # With its own digest, so that it can be read before anything else here is.
            self.save_json("run", {**wanted, "digest": digest_of(wanted)})
            return
        advice = "Give a different --out, or delete that folder to start over. Nothing was changed."
        if found is None:
            raise UserError(
                f"{self.out} holds finished work, but its run.json is damaged or of another version of layersmith, so "
                f"it cannot be told whose work it is. {advice}"
            )
        if found.get("format") != FORMAT:
            raise UserError(
                f"{self.out} holds a run of another version of layersmith, which keeps its files in another form "
                f"({found.get('format')}; this version's is {FORMAT}). {advice}"
            )
        differing = differences(found, wanted)
        if differing:
            raise UserError(f"{self.out} holds another run (it differs in: {', '.join(differing)}). {advice}")

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
            _forget(path)

    def remove_tensors(self, name: str) -> None:
        """Forget the tensors of that name, and keep its JSON."""
        _forget(self._path(name, ".safetensors"))

    def remove_folder(self, name: str) -> None:
        """Forget everything whose name begins with that folder."""
        shutil.rmtree(self._path(name, ""), ignore_errors=True)

    def _holds_work(self) -> bool:
        # Every stage keeps its results in a folder of its own; a run that was refused for its input has made none, and
        # the corrected command may have its place.
        return any(seal.parent != self.root for seal in self.root.rglob("*.sha256*"))

    def _clear(self) -> None:
        """Remove what a run that stored no work left: it may be another's."""
        for path in self.root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()

    # -- how a file becomes true --------------------------------------------------------------------------------

    def _path(self, name: str, suffix: str) -> Path:
        path = Path(os.path.normpath(self.root / (name + suffix)))
        if not path.is_relative_to(self.root):
            raise UserError(f"The workspace name {name!r} would leave the workspace folder; it is refused.")
        return path

    def _commit(self, path: Path, write: Callable[[Path], None]) -> None:
        fresh, seal = _fresh(path), _seal(path)
        with writing(self.out):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(fresh)
            _fresh(seal).write_text(_digest(fresh))
            if path.exists():  # what stands there is given up only for something that a power cut cannot take
                _flush(fresh)
                _flush(_fresh(seal))
            os.replace(fresh, path)
            os.replace(_fresh(seal), seal)

    def _vouched(self, path: Path) -> bool:
        if not path.exists():
            return False
        if self._is_whole(path):
            return True
        self.on_rebuild(str(path.relative_to(self.root)))
        _forget(path)
        return False

    def _is_whole(self, path: Path) -> bool:
        seals = [seal.read_bytes() for seal in (_seal(path), _fresh(_seal(path))) if seal.exists()]
        return bool(seals) and _digest(path).encode() in seals

    def _take_lock(self) -> FileLock:
        lock = FileLock(self.root / "lock", thread_local=False)  # whichever thread lets go of it
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"Another process is working in {self.out}. Wait for it, or choose another --out."
            ) from error
        return lock


def refuse_a_foreign_folder(out: Path) -> None:
    """A non-empty folder without our workspace is somebody's data, not ours to write into."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out must be a folder.")
    if out.is_dir() and any(out.iterdir()) and not holds_run(out):
        raise UserError(f"{out} exists, is not empty and holds no layersmith run. Give a new folder as --out.")


def _own_storage(tensor: Tensor) -> Tensor:
    """safetensors refuses views into larger storages; only those are copied, because whole models pass here."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size() else tensor.clone()


def _seal(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _fresh(path: Path) -> Path:
    """Where a file is written before it takes its place."""
    return path.with_name(path.name + ".new")


def _forget(path: Path) -> None:
    for part in (path, _seal(path), _fresh(_seal(path)), _fresh(path)):
        part.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
