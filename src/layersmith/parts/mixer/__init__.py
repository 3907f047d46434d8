"""The mixers of the table of parts, a file for each way to mix."""

from __future__ import annotations

from layersmith.parts.entry import Entry
from layersmith.parts.mixer import attention, positions, recurrence

ENTRIES: dict[str, Entry] = dict(sorted({**attention.ENTRIES, **recurrence.ENTRIES, **positions.ENTRIES}.items()))
