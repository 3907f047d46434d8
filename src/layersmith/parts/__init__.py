"""The table of parts: name -> class, family, papers, and a small configuration that the contract suite builds.

One file a family, of mixers one for each way to mix. Strings only: no part is imported until it is asked for. One line
or two for each part, sorted by name.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from layersmith.parts import block, ffn, linear, mixer, norm, scheme
from layersmith.parts.entry import Entry as Entry

ENTRIES: dict[str, Entry] = {
    **ffn.ENTRIES,
    **mixer.ENTRIES,
    **linear.ENTRIES,
    **norm.ENTRIES,
    **block.ENTRIES,
    **scheme.ENTRIES,
}


def source(name: str) -> Path:
    """The file that defines a part. Raises `FileNotFoundError` when the table names a module that is not there."""
    spec = importlib.util.find_spec(ENTRIES[name].target.partition(":")[0])
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"The part {name!r} has no source file: {ENTRIES[name].target!r} cannot be found.")
    return Path(spec.origin)
