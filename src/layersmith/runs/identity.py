"""What makes a run the run it is: the model, the text that was really read, the settings, the versions of libraries.

Everything a run keeps was computed from these. So a workspace goes on only under the same identity, and figures of
another one never come back under its name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

import layersmith

#: In a config but not of the model: where it lay, and who wrote it.
_PASSING = ("_name_or_path", "name_or_path", "transformers_version")
#: State of a tokenizer that its last call has set.
_LAST_CALL = ("truncation", "padding")
_WORDS = {
    "model": "the class of the model",
    "weights": "the weights of the model",
    "tokenizer": "the tokenizer",
    "text": "the text that is read",
}

Batches = Mapping[str, Sequence[Mapping[str, Tensor]]]


def identity_of(model: nn.Module, tokenizer: Any, batches: Batches) -> dict[str, Any]:
    """The identity of work on this model and text, as JSON.

    batches  {purpose: batches of tensors}: what was read, not where it was read from
    """
    return {
        "model": type(model).__qualname__,
        "weights": weights_digest(model),
        "config": _config(getattr(model, "config", None)),
        "generation_config": _config(getattr(model, "generation_config", None)),
        "tokenizer": tokenizer_digest(tokenizer),
        "text": {purpose: batches_digest(found) for purpose, found in batches.items()},
        "versions": {"layersmith": layersmith.__version__}
        | {name: version(name) for name in ("torch", "transformers")},
    }


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """In what two identities differ, in plain words; empty when they are the same run's."""
    said = []
    for key in sorted({*found, *wanted}):
        then, now = found.get(key), wanted.get(key)
        if _text(then) == _text(now):
            continue
        if key in _WORDS:
            said.append(_WORDS[key])
        elif isinstance(then, Mapping) and isinstance(now, Mapping):
            said += _entries(key, then, now)
        else:
            said.append(_change(key, then, now))
    return said


def digest_of(*facts: Any) -> str:
    """A short name for facts (JSON): the same facts, the same name. For files that hold what depends on them."""
    return hashlib.sha256(_text(facts).encode()).hexdigest()[:16]


def weights_digest(model: nn.Module) -> str:
    """A digest of every weight: the same model gives the same run, whatever path it came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        _add(digest, name, tensor)
    return digest.hexdigest()


def batches_digest(batches: Sequence[Mapping[str, Tensor]]) -> str:
    """A digest of every token and mask."""
    digest = hashlib.sha256()
    for batch in batches:
        for name, tensor in sorted(batch.items()):
            _add(digest, name, tensor)
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """A digest of how text becomes tokens; of a processor of pictures or sound, of its settings."""
    if tokenizer is None:
        return "none"
    facts: list[Any] = [type(tokenizer).__name__]
    facts += [str(getattr(tokenizer, name, "")) for name in ("chat_template", "special_tokens_map", "padding_side")]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        facts.append({key: value for key, value in rules.items() if key not in _LAST_CALL})
    elif hasattr(tokenizer, "get_vocab"):
        facts.append(tokenizer.get_vocab())
    elif hasattr(tokenizer, "to_dict"):
        facts.append(tokenizer.to_dict())
    return hashlib.sha256(_text(facts).encode()).hexdigest()


def _add(digest: Any, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _config(config: Any) -> dict[str, Any]:
    if config is None:
        return {}
    whole = config if isinstance(config, dict) else config.to_dict()
    return {key: value for key, value in json.loads(_text(whole)).items() if key not in _PASSING}


def _entries(key: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    changed = [name for name in sorted({*then, *now}) if _text(then.get(name)) != _text(now.get(name))]
    if key == "versions":
        return [_change(f"the version of {name}", then.get(name), now.get(name)) for name in changed]
    if key == "settings":
        return [_change(name, then.get(name), now.get(name)) for name in changed]
    return [_change(f"the model's {key.replace('_', ' ')}: {name}", then.get(name), now.get(name)) for name in changed]


def _change(name: str, then: Any, now: Any) -> str:
    before, after = _text(then), _text(now)
    return f"{name} (was {before}, is {after})" if len(before) + len(after) < 100 else name


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
