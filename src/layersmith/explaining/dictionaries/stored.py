"""A dictionary on disk: its spec, all its tensors with both scales, and a fingerprint of the site it was made for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from layersmith import catalogue
from layersmith.errors import UserError
from layersmith.explaining.dictionaries import folder
from layersmith.explaining.tool import Observed
from layersmith.ffn.sparse_dictionary import SparseDictionary
from layersmith.runs.identity import weights_digest

FACTS, WEIGHTS = "dictionary.json", "dictionary.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Fingerprint:
    """Of a site: the widths of what it reads and writes, and a digest of its module's weights."""

    d_in: int
    d_out: int
    weights: str

    @classmethod
    def of(cls, observed: Observed) -> Fingerprint:
        return cls(observed.inputs.shape[-1], observed.outputs.shape[-1], weights_digest(observed.module))

    def check(self, site: Fingerprint) -> None:
        """UserError if what was made for this site is not for that one."""
        if (self.d_in, self.d_out) != (site.d_in, site.d_out):
            raise UserError(
                f"The dictionary reads {self.d_in} channels and writes {self.d_out}; the site reads {site.d_in} and "
                f"writes {site.d_out}. It was made for another site: train one for this."
            )
        if self.weights != site.weights:
            raise UserError(
                "The dictionary has the site's widths but was made for another sublayer: of another model or layer, or "
                "before its weights were changed. Train one for this site, or give the model it was made for."
            )


def save_dictionary(dictionary: SparseDictionary, path: Path, site: Fingerprint, facts: dict[str, Any]) -> None:
    """Save it, with JSON of the caller's own: how it was trained, say."""
    head = {"format": FORMAT, "spec": dictionary.spec(), "site": asdict(site), "facts": facts}
    folder.write(path, {FACTS: head}, {WEIGHTS: dictionary.state_dict()})


def load_dictionary(
    path: Path, site: Fingerprint | None = None
) -> tuple[SparseDictionary, Fingerprint, dict[str, Any]]:
    """The dictionary, the site it was made for, and the caller's JSON.

    site  where it is to be used: UserError if it was not made for that
    """
    path = Path(path)
    head = folder.read_json(path / FACTS)
    if head.get("format") != FORMAT:
        raise UserError(f"{path} holds a dictionary of another version of layersmith ({head.get('format')!r}).")
    try:
        made_for, spec, facts = Fingerprint(**head["site"]), dict(head["spec"]), dict(head["facts"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"The dictionary in {path} is damaged: {FACTS} lacks what it should hold ({error}).") from error
    if site is not None:
        made_for.check(site)
    if spec.get("name") != SparseDictionary.name:
        raise UserError(f"{path} holds no sparse dictionary, but a {spec.get('name')!r}.")
    dictionary: SparseDictionary = catalogue.build(spec)
    try:
        dictionary.load_state_dict(folder.read_tensors(path / WEIGHTS))
    except RuntimeError as error:
        raise UserError(f"The dictionary in {path} is damaged: its tensors are not those of its spec.") from error
    return dictionary.eval().requires_grad_(False), made_for, facts
