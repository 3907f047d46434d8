"""Every architecture through a whole refit, in one process: what came of each, as rows of a table.

An architecture *works* when a default refit of its tiny model, with one step of healing, saves a model that computes
the same when it is loaded again. It is *refused* when the run ends with a UserError before anything is built. Whatever
else happens is a *fault*.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

import layersmith
from layersmith.checkpoint import reload, verify
from layersmith.errors import UserError
from tests.architectures.builders import Architecture

SETTINGS: dict[str, Any] = {"effort": 0.01, "distill_steps": 0, "at": "prefill=1x16", "progress": False}
BUDGET = {"params": 0.97}
#: One batch to heal on.
HEAL_TOKENS = 1024


@dataclass(frozen=True)
class Outcome:
    """`outcome` is "works", "refused" or "fault"; `why` says so in words, or names what the model was saved as."""

    architecture: str
    model_class: str
    outcome: str
    why: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def swept(architecture: Architecture, folder: Path) -> Outcome:
    """What comes of one architecture; `folder` is written to."""
    start = time.perf_counter()

    def came(outcome: str, why: str) -> Outcome:
        seconds = round(time.perf_counter() - start, 1)
        return Outcome(architecture.name, architecture.model_class, outcome, " ".join(why.split()), seconds)

    model = architecture.model()
    reads = getattr(model, "main_input_name", "input_ids") == "input_ids"
    asked = dict(SETTINGS, budget=BUDGET, out=folder / "run", heal_tokens=HEAL_TOKENS)
    if reads:
        asked |= {"tokenizer": tokenizer_for(model.config), "data": str(text(folder / "text.txt"))}
    try:
        with mock.patch.object(verify, "_run", _reloaded_here):
            result = layersmith.refit(model, **asked)
    except UserError as refused:
        built = (folder / "run" / "workspace" / "library").exists()
        return came("fault" if built else "refused", str(refused))
    except Exception as error:
        return came("fault", f"{type(error).__name__}: {error}")
    exact = result["reload_max_abs_diff"] <= 1e-4
    return came("works" if exact else "fault", f"saved as {result['export']}")


def _reloaded_here(job: dict[str, Any], scratch: Path) -> str:
    """Load the saved model in this process: a fresh one each would take most of the time (`verify` has its tests)."""
    reload.main(json.loads(json.dumps(job)))
    return ""


def tokenizer_for(config: Any) -> PreTrainedTokenizerFast:
    """Words "w0", "w1", ... and the special tokens that the config names, each at its own place."""
    text_config = config.get_text_config()
    size = text_config.vocab_size
    special = {n: getattr(text_config, f"{n}_token_id", None) for n in ("pad", "bos", "eos")}
    named = {number: f"[{name.upper()}]" for name, number in special.items() if isinstance(number, int)}
    words = {named.get(number, f"w{number}"): number for number in range(size)}
    made = Tokenizer(WordLevel(words, unk_token=f"w{size - 1}"))
    made.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    tokens = {f"{name}_token": named[number] for name, number in special.items() if number in named}
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token=f"w{size - 1}", **tokens)


def text(path: Path) -> Path:
    """A file of distinct paragraphs of words that every such tokenizer knows."""
    draw = random.Random(0)
    paragraphs = [" ".join(f"w{draw.randrange(5, 30)}" for _ in range(40)) for _ in range(400)]
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    return path


def sweep(architectures: Iterable[Architecture], folder: Path) -> list[Outcome]:
    """All of them, one after the other; each is told as it ends, because the whole takes minutes."""
    outcomes = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # models this small take longer on several
    try:
        for architecture in architectures:
            place = folder / architecture.name
            place.mkdir(parents=True)
            outcomes.append(swept(architecture, place))
            print(json.dumps(outcomes[-1].to_json()), flush=True)  # noqa: T201
    finally:
        torch.set_num_threads(threads)
    return outcomes
