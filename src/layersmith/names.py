"""The names a user gives: of a model, a text, a device, a folder to write to.

They are checked here without importing torch or transformers, and without asking the Hub, so that a slip is answered
at once. Nothing is written: a refused command leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import constants

from layersmith import pocket
from layersmith.errors import MissingExtra, UserError, suggest
from layersmith.kinds import shown

DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "npu", "mtia")
_SUBLAYERS = ("ffn", "attn", "cross_attn")
_NORMS = tuple(f"{sublayer}_{norm}" for norm in ("norm", "post_norm") for sublayer in _SUBLAYERS)
#: What the names of sites end in, numbers apart; a block's is a number alone.
SITES = (*_SUBLAYERS, *_NORMS, "final_norm", "head")
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_HUB_DATA = re.compile(r"hub:\w[\w.-]*(/\w[\w.-]*)?(:[^:]*){0,2}", re.ASCII)
#: Endings of files, not of Hub ids.
_FILES = (".gguf", ".safetensors", ".json", ".bin", ".pt")


# -- models -------------------------------------------------------------------------------------------------------


def model_source(name: str) -> tuple[str, str | None]:
    """What to hand to `from_pretrained`, and the .gguf file inside it if that is where the weights are.

    Raises UserError for a name that cannot be a model's, with the one that was probably meant.
    """
    if name == "pocket":
        return str(pocket.path()), None
    if not name.strip():
        raise UserError("No model was named. Give a folder, a .gguf file, a Hub id, or pocket.")
    path = os.path.expanduser(name)
    if os.path.isdir(path):
        return str(Path(path)), _gguf_in(name, Path(path))
    if os.path.isfile(path):
        if path.endswith(".gguf"):
            return os.path.dirname(path) or ".", os.path.basename(path)
        raise UserError(f"{name!r} is a file. Give the folder that holds the model's config.json, or a .gguf file.")
    if not _HUB_ID.fullmatch(name) or name.endswith(_FILES):
        kind = "file" if name.endswith(_FILES) else "folder"
        raise UserError(f"There is no {kind} {name!r}.{_did_you_mean(_near_folder(path, _alike))}")
    _check_hub_id(name)
    return name, None


def _gguf_in(name: str, path: Path) -> str | None:
    """The .gguf file of a folder that holds nothing else to load; None for a folder with a config."""
    if (path / "config.json").is_file():
        _read_json(path / "config.json")
        return None
    if (base := adapter_base(path)) is not None:
        model_source(base)
        return None
    if (path / "model" / "config.json").is_file():
        raise UserError(
            f"{name!r} holds the result of a refit. Its model is in {str(Path(name) / 'model')!r}: give that."
        )
    if (path / "workspace").is_dir():
        raise UserError(f"{name!r} holds a refit that has not finished, and no model yet. Run that refit again first.")
    files = sorted(file.name for file in path.glob("*.gguf"))
    if len(files) == 1:
        return files[0]
    if files:
        raise UserError(f"{name!r} holds {len(files)} .gguf files ({', '.join(files[:4])}, ...); name one of them.")
    raise UserError(f"{name!r} is not a model folder: it has neither a config.json nor a .gguf file.")


def adapter_base(path: Path, met: tuple[Path, ...] = ()) -> str | None:
    """The base model of the adapter in a folder, as PEFT wrote it down; None for a folder that is more, or none."""
    if not (file := path / "adapter_config.json").is_file() or (path / "config.json").is_file():
        return None
    base = _read_json(file).get("base_model_name_or_path")
    if not isinstance(base, str) or not base or path.resolve() in met:  # adapters may stand on one another, in no ring
        raise UserError(f"{str(path)!r} holds an adapter without its base model. Name that in its {file.name}.")
    adapter_base(Path(base).expanduser(), (*met, path.resolve()))
    return base


def _read_json(file: Path) -> dict[str, object]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{str(file)!r} cannot be loaded: it is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise UserError(f"{str(file)!r} cannot be loaded: it holds a {type(content).__name__}, not a config.")
    return content


def _check_hub_id(name: str) -> None:
    """Refuse what is a slip of a name known here. What was downloaded before is no slip."""
    if (Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}").is_dir():
        return
    if "/" not in name and get_close_matches(name.lower(), ["pocket"], cutoff=0.8):
        raise UserError(f"There is no model {name!r}. Did you mean 'pocket'?")
    near = _near_folder(name, _one_slip)
    if near is not None and (near / "config.json").is_file():
        raise UserError(
            f"There is no folder {name!r}. Did you mean {str(near)!r}? If you do mean the Hub's model of that name, "
            f"fetch it first: hf download {name}"
        )
    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"{name!r} is neither a folder here nor a model that can be reached: none of that name was downloaded "
            f"before, and HF_HUB_OFFLINE forbids asking the Hub. Give the folder of a model, or pocket."
        )


def shown_name(name: str) -> str:
    """A model as tables name it: a folder by its own name (and its run's, for the `model` of a refit)."""
    if not os.path.exists(os.path.expanduser(name)):
        return name
    path = Path(os.path.expanduser(name)).absolute()
    return f"{path.parent.name}/model" if path.name == "model" and path.parent.name else path.name


# -- texts, devices, folders --------------------------------------------------------------------------------------


def check_data(name: str, *others: str) -> None:
    """Refuse a text source that is no path here, no `hub:` name and neither "stdlib" nor one of the others."""
    known = ("stdlib", *others)
    if name in known or os.path.exists(name):
        return
    if _HUB_DATA.fullmatch(name):
        if "datasets" not in sys.modules and find_spec("datasets") is None:
            raise MissingExtra("datasets", "hub", f"Reading {name!r}")
        return
    near = next(iter(get_close_matches(name, known, n=1, cutoff=0.7)), None)
    raise UserError(
        f"There is no text at {name!r}.{_did_you_mean(near)} Give {' or '.join(map(repr, known))}, the path of a text "
        f"file or of a folder, or a Hub data set as 'hub:owner/name[:config][:text_column]'."
    )


def check_tasks(tasks: list[str]) -> None:
    """Refuse an empty name, a task file that is not there, and tasks where their harness is not installed."""
    if not tasks or not all(task.strip() for task in tasks):
        raise UserError("Name at least one task, separated by commas: --tasks arc_easy,hellaswag.")
    for task in tasks:
        if task.endswith((".yaml", ".yml")) and not Path(task).is_file():
            raise UserError(f"There is no task file at {task!r}.")
    if find_spec("lm_eval") is None:
        raise MissingExtra("lm_eval", "tasks", "Scoring the tasks of lm-evaluation-harness")


def check_seed(seed: int) -> None:
    """Refuse a seed that not every generator of random numbers takes."""
    if not 0 <= seed < 2**32:
        raise UserError(f"The seed must be a whole number from 0 to {2**32 - 1}, not {seed}.")


def check_names(what: str, names: object) -> None:
    """Refuse what is no list of at least one name; None is all there are."""
    if names is None:
        return
    listed = names if isinstance(names, Sequence | Set) and not isinstance(names, str | bytes) else []
    if not listed or not all(isinstance(name, str) and name for name in listed):
        raise UserError(f"{what} must be a list of at least one name, not {shown(names)}; leave it out to take all.")


def check_sites(names: Collection[str] | None) -> None:
    """Refuse what is no list of names of sites, and a name that no site has, in whatever model; None is all sites.

    Whether this model has the site shows when it has been taken apart.
    """
    check_names("sites", names)
    for name in names or ():
        place, dot, last = name.rpartition(".")
        if not any(sign in last for sign in "*?[") and re.sub(r"\d", "", last) not in ("", *SITES):
            raise UserError(
                f"No model has a site {name!r}. {suggest(name, [place + dot + each for each in SITES])} "
                f"`layersmith sites MODEL` lists a model's."
            )


def check_device(name: str) -> None:
    """Refuse what no machine calls a device. Whether this one has it shows when the model is put there."""
    kind, _, index = name.partition(":")
    if kind not in DEVICES or (":" in name and not (index.isascii() and index.isdigit())):
        raise UserError(f"{name!r} is not a device. Give cpu, cuda, cuda:1 (the second of several), or mps.")


def check_out(out: Path) -> None:
    """Refuse a folder that cannot be written to, or that holds something else than a run of ours."""
    path = Path(os.path.expanduser(out))
    if str(path).startswith("~"):
        raise UserError(f"Cannot write to {out}: there is no such user. Choose another --out.")
    _check_reachable(path)
    if path.is_dir() and any(path.iterdir()) and not holds_run(path):
        raise UserError(f"{out} exists, is not empty and holds no layersmith run. Give a new folder as --out.")
    place = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not place.is_dir():
        raise UserError(f"Cannot write to {out}: {place} is not a folder. Choose another --out.")
    try:
        tempfile.TemporaryDirectory(prefix=".layersmith-", dir=place).cleanup()
    except OSError as error:
        raise UserError(f"Cannot write to {out}: {error.strerror}. Choose another --out.") from error


def holds_run(folder: Path) -> bool:
    """Whether the folder `workspace` in it is one of ours: it has our marks, or a run was killed before it left one."""
    workspace = folder / "workspace"
    if not workspace.is_dir():
        return False
    marked = any((workspace / name).exists() for name in ("run.json", "run.json.new", "lock"))
    return marked or any(workspace.rglob("*.sha256")) or not any(workspace.iterdir())


def _check_reachable(path: Path) -> None:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"Cannot write to {path}: {reason}. Choose another --out.") from error


def check_reusable(earlier: Path) -> None:
    """Refuse a folder that holds no run whose work could be taken over."""
    if not (earlier / "workspace").is_dir():
        raise UserError(f"{earlier} holds no layersmith run whose candidates could be reused.")


# -- what was meant -----------------------------------------------------------------------------------------------


def _did_you_mean(found: Path | str | None) -> str:
    return "" if found is None else f" Did you mean {str(found)!r}?"


def _near_folder(name: str, alike: Callable[[str, list[str]], list[str]]) -> Path | None:
    """The folder that was probably meant: every part of the path as it stands, or the one like it in that place.

    The result of a refit stands for its model.
    """
    wanted = Path(name)
    found = Path(wanted.anchor)
    for part in wanted.relative_to(wanted.anchor).parts:
        if not (found / part).is_dir():
            likely = alike(part, _folders(found))
            if not likely:
                return None
            part = likely[0]
        found /= part
    return found / "model" if (found / "model" / "config.json").is_file() else found


def _folders(place: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in place.iterdir() if entry.is_dir())
    except OSError:
        return []


def _alike(wrong: str, known: list[str]) -> list[str]:
    return get_close_matches(wrong, known, n=1, cutoff=0.6)


def _one_slip(wrong: str, known: list[str]) -> list[str]:
    """Those that differ by one letter too many, missing, wrong, or swapped with its neighbour.

    A Hub id beside a folder of nearly its name is no rarity (llama-1b, llama-3b), so digits are no slip.
    """
    return [name for name in known if _is_slip(wrong, name)]


def _is_slip(a: str, b: str) -> bool:
    while a and b and a[0] == b[0]:
        a, b = a[1:], b[1:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    if any(letter.isdigit() for letter in a + b):
        return False
    return (len(a) <= 1 and len(b) <= 1) or (len(a) == 2 and a == b[::-1])


def texts(given: object) -> Iterator[str]:
    """Every text in lists and dicts of what a user wrote, at any depth: the names of parts in a spec are among them."""
    if isinstance(given, str):
        yield given
    elif isinstance(given, dict | list):
        for value in given.values() if isinstance(given, dict) else given:
            yield from texts(value)
