"""What lies beside a model's weights, and no code: kept when a model is saved, and cleaned of pointers to code.

Processors, feature extractors, chat templates and the modules of sentence-transformers decide what a model is given
and what becomes of its output. They are copied as they are. Python files are never copied, nor are entries that would
make a loader import one ("auto_map").
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from layersmith.checkpoint.stored import inside
from layersmith.errors import UserError

#: Written with the model itself, or about another one: weights and their index, config, adapter, records of training.
_OWN = ("config.json", "adapter_config.json", "trainer_state.json", "metrics.json", "all_results.json")
_OWN_ENDS = (".index.json", "_results.json")
_KEPT_ENDS = (".json", ".jinja", ".txt", ".model", ".spm")
_KEPT_STARTS = ("LICENSE", "NOTICE")
_KEPT_FOLDERS = ("additional_chat_templates",)
#: Entries of JSON files that name Python code to import.
_CODE = ("auto_map", "custom_pipelines")
#: A processor or a vocabulary is smaller; anything larger is no companion.
_LARGEST = 64 * 2**20


def copy_companions(source: str | os.PathLike[str], folder: Path) -> None:
    """Copy what the model folder `source` has beside weights and config into `folder`, without replacing anything."""
    root = Path(source)
    if not (root / "config.json").is_file():
        return  # a Hub id, a lone .gguf file, or a model that came from nowhere
    for file in sorted(root.iterdir()):
        if file.is_file() and _is_companion(file) and inside(root, file.name) and not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)
    for name in (*_KEPT_FOLDERS, *sentence_modules(root)):
        if (root / name).is_dir() and not (folder / name).exists():
            _copy_folder(root, name, folder)


def is_sentence_encoder(root: Path) -> bool:
    """Whether sentence-transformers opens this folder. Raises UserError for a damaged modules.json."""
    sentence_modules(root)
    return (root / "modules.json").is_file()


def sentence_modules(root: Path) -> list[str]:
    """Folders of the modules that sentence-transformers runs after the model ("1_Pooling"); [] for other models.

    Raises UserError for a damaged modules.json, or one that names a folder outside the model's own.
    """
    if not (root / "modules.json").is_file():
        return []
    try:
        modules = json.loads((root / "modules.json").read_text(encoding="utf-8"))
        paths = [module["path"] for module in modules]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{str(root / 'modules.json')!r} is damaged: it does not list modules and paths.") from error
    if not isinstance(modules, list):
        raise UserError(f"{str(root / 'modules.json')!r} is damaged: it is no list of modules.")
    for path in paths:
        if not isinstance(path, str) or (path and Path(path).name != path) or path == "..":
            raise UserError(
                f"{str(root / 'modules.json')!r} names {path!r}, which is no folder inside the model's own."
            )
    return [path for path in paths if path]


def strip_code(folder: Path, ours: dict[str, str] | None = None) -> None:
    """Take out of a saved folder whatever would make a loader run Python files: entries "auto_map", and the files.

    ours  the auto_map a layersmith checkpoint has, which points at the installed package
    """
    for file in folder.rglob("*.json"):
        is_config = ours is not None and file == folder / "config.json"
        text = file.read_bytes()
        if not is_config and not any(key.encode() in text for key in _CODE):
            continue
        try:
            content = json.loads(text)
        except ValueError as error:
            raise UserError(f"{file.name} names Python code, but is no JSON it could be taken out of.") from error
        clean = _without_code(content)
        if is_config:
            clean["auto_map"] = ours
        if clean != content:
            file.write_text(
                json.dumps(clean, indent=2, sort_keys=file.name == "config.json", ensure_ascii=False) + "\n"
            )
    for file in folder.rglob("*.py"):
        file.unlink()


def _is_companion(file: Path) -> bool:
    name = file.name
    if name in _OWN or name.endswith(_OWN_ENDS) or name.startswith(".") or file.stat().st_size > _LARGEST:
        return False
    return name.endswith(_KEPT_ENDS) or name.startswith(_KEPT_STARTS)


def _copy_folder(root: Path, name: str, folder: Path) -> None:
    (folder / name).mkdir()  # that of a module without settings is empty
    for file in sorted((root / name).rglob("*")):
        relative = str(file.relative_to(root))
        if file.is_file() and file.suffix not in (".py", ".pyc") and inside(root, relative):
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def _without_code(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_code(item) for key, item in value.items() if key not in _CODE}
    return [_without_code(item) for item in value] if isinstance(value, list) else value
