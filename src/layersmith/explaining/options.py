"""What a user may ask of `explain`: one field an option, with the words that `layersmith explain --help` shows.

Nothing heavy is imported here, so the command line is made from this class and refuses a slip at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layersmith.errors import UserError
from layersmith.explaining.tools import check_settings, check_tool
from layersmith.explaining.wording.address import check_address, is_address
from layersmith.names import check_data, check_device, check_out, check_seed, check_sites, model_source, shown_name

#: Fewer tokens than this describe nothing.
LEAST_TOKENS = 256
#: The tool whose features can be put into words, and as many of them as have a page.
WORDED, MOST_WORDS = "dictionary", 50


@dataclass(frozen=True)
class ExplainConfig:
    """The options of `explain`."""

    tool: str = field(
        default="statistics",
        metadata={"flag": "--with", "help": "what explains: statistics, lens, a tool's name, or package.module:Class"},
    )
    sites: list[str] | None = field(
        default=None, metadata={"help": "only these sites, separated by commas: layers.3.ffn or layers.*.attn"}
    )
    data: str = field(
        default="stdlib", metadata={"help": "stdlib, a file or folder of text, pictures or sound, or hub:owner/name"}
    )
    text_column: str | None = field(
        default=None, metadata={"help": "of a table (.jsonl, .json, .csv, .tsv); source,target for pairs of texts"}
    )
    out: Path | None = field(
        default=None,
        metadata={"help": "folder for result.json, report.html and the workspace; out/MODEL-TOOL if not given"},
    )
    settings: dict[str, Any] | None = field(default=None, metadata={"flag": "--set", "help": "settings of the tool"})
    tokens: int = field(default=8192, metadata={"help": "tokens to fit to; a quarter as many more to judge on"})
    seed: int = field(default=0, metadata={"help": "of everything random"})
    device: str | None = field(
        default=None, metadata={"help": "where the model runs: cpu (if not given), cuda, cuda:1, mps"}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "import the Python code that the model brings"})
    words_by: str | None = field(
        default=None,
        metadata={
            "help": "what puts features of a dictionary into words: a model's folder, or the http(s) address of an "
            "OpenAI-compatible endpoint, to which passages of the text are then sent; nothing if not given"
        },
    )
    words_model: str | None = field(default=None, metadata={"help": "the model to ask at that address"})
    words: int = field(default=10, metadata={"help": "features of each site to put into words"})
    words_timeout: float = field(default=120.0, metadata={"help": "seconds to wait for an answer from the address"})


def check(config: ExplainConfig) -> None:
    """Raise a UserError for options that no run could mean; nothing is loaded, and nothing written, for it."""
    check_tool(config.tool)
    check_settings(config.tool, config.settings or {})
    check_sites(config.sites)
    if config.tokens < LEAST_TOKENS:
        raise UserError(f"tokens must be at least {LEAST_TOKENS}, not {config.tokens}: fewer describe nothing.")
    check_seed(config.seed)
    check_data(config.data)
    if config.device is not None:
        check_device(config.device)
    if config.out is not None:
        check_out(config.out)
    _check_words(config)


def _check_words(config: ExplainConfig) -> None:
    """What the four options of wording cannot be, alone and together."""
    if not 1 <= config.words <= MOST_WORDS:
        raise UserError(f"words must be from 1 to {MOST_WORDS} features, not {config.words}.")
    if not 0 < config.words_timeout <= 86400:
        raise UserError(f"words_timeout must be more than 0 seconds and at most a day, not {config.words_timeout:g}.")
    if config.words_by is None:
        if config.words_model is not None:
            raise UserError("words_model names a model at an address: say which, as words_by (--words-by).")
        return
    if config.tool != WORDED:
        raise UserError(
            f"Only features can be put into words, and {config.tool!r} finds none. Ask for a dictionary: "
            f"--with {WORDED}."
        )
    if not is_address(config.words_by):
        model_source(config.words_by)
        if config.words_model is not None:
            raise UserError("words_model is for an address; a folder holds one model. Leave it out.")
        return
    check_address(config.words_by)
    if config.words_model is None or not config.words_model.strip():
        raise UserError(
            f"Which model is to be asked at {config.words_by}? Name it as words_model (--words-model NAME), as the "
            f"server knows it."
        )


def folder_for(model: str, tool: str) -> Path:
    """Where a run writes that was given no folder."""
    return Path("out") / f"{shown_name(model).replace('/', '-')}-{tool.replace(':', '.')}"
