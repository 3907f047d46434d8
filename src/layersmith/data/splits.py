"""Three fixed splits of any source: what a passage says decides where it goes, so equal passages go together.

A unit (a passage of text, a picture, a recording) belongs to exactly one of ``train``, ``calibration`` and ``heldout``,
by a SHA-256 hash of its content. The same source always splits the same way, on every machine, and adding a unit never
moves another one (beyond the first few).
"""

import hashlib

from layersmith.errors import UserError

SPLITS = ("train", "calibration", "heldout")

# Shares of the hash range. With SALT they give 85.4 / 7.0 / 7.7 % of the standard library's bytes on Python 3.11;
# the salt was chosen once, for those shares alone, and changing it would leak held-out text into a trained pocket.
CALIBRATION_FROM, HELDOUT_FROM = 0.85, 0.92
SALT = "layersmith-6"

FEW, FEW_SHARE = 32, 0.2  # of fewer units than this, each of the small splits gets this share: 7 % of 20 is nothing


def split_of(content: str) -> str:
    """The split a unit with this content (for the standard library: of this name) belongs to."""
    place = _hash(content) / 2**64
    return "train" if place < CALIBRATION_FROM else "calibration" if place < HELDOUT_FROM else "heldout"


def share_out(contents: list[str]) -> dict[str, list[int]] | None:
    """Indices of distinct units per split; None for fewer than three units, which cannot fill three splits.

    Where the units are few, or hashing leaves a split empty, they are ranked by their hashes and shared out by number.
    """
    if len(contents) < len(SPLITS):
        return None
    placed = [split_of(content) for content in contents]
    if len(contents) < FEW or len(set(placed)) < len(SPLITS):
        ranked = sorted(range(len(contents)), key=lambda index: _hash(contents[index]))
        few = max(1, round(len(ranked) * FEW_SHARE))
        for index in ranked:
            placed[index] = "train"
        for index in ranked[-2 * few : -few]:
            placed[index] = "calibration"
        for index in ranked[-few:]:
            placed[index] = "heldout"
    return {split: [index for index, of in enumerate(placed) if of == split] for split in SPLITS}


def check_split(split: str) -> None:
    """Raise a UserError for a name that is no split."""
    if split not in SPLITS:
        raise UserError(f"There is no split {split!r}; the splits are {', '.join(SPLITS)}.")


def _hash(content: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{SALT}/{content}".encode()).digest()[:8], "big")
