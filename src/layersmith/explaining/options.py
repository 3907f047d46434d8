"""What a user may ask of `explain`: one field an option, with the words that `layersmith explain --help` shows.

Nothing heavy is imported here, so the command line is made from this class and refuses a slip at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layersmith.errors import UserError
from layersmith.explaining.tools import check_settings, check_tool
from layersmith.names import check_data, check_device, check_out, check_seed, check_sites, shown_name

#: Fewer tokens than this describe nothing.
LEAST_TOKENS = 256


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


def folder_for(model: str, tool: str) -> Path:
    """Where a run writes that was given no folder."""
    return Path("out") / f"{shown_name(model).replace('/', '-')}-{tool.replace(':', '.')}"
