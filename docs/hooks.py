"""Pages that mkdocs generates from the code, so that they cannot go stale: the catalogue and the methods."""

import inspect
from importlib import import_module

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from layersmith import catalogue
from layersmith.refit.methods import METHODS


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, text in {"catalogue.md": _catalogue(), "methods.md": _methods()}.items():
        files.append(File.generated(config, name, content=text))
    return files


def _catalogue() -> str:
    lines = [
        "# Catalogue and evidence",
        "",
        "Evidence is read from the record of the tests: 1 contract, 2 + oracle, 3 + official code, 4 + claim measured.",
        "",
        "| part | family | evidence | papers | what it is |",
        "| --- | --- | --- | --- | --- |",
    ]
    for part in catalogue.as_json():
        cells = [f"`{part['name']}`", part["family"], str(part["evidence"]["level"]), " ".join(part["papers"])]
        summary = part["summary"].replace("|", r"\|")
        lines.append(f"| {' | '.join(cells)} | {summary} |")
    return "\n".join(lines) + "\n"


def _methods() -> str:
    lines = ["# Methods", "", "Each is one file of `layersmith.refit.methods`; its docstring follows.", ""]
    for name, target in METHODS.items():
        module = import_module(target.partition(":")[0])
        lines += [f"## {name}", "", "```text", inspect.cleandoc(module.__doc__ or ""), "```", ""]
    return "\n".join(lines)
