"""Pictures for models that see: a folder of files through the model's own processor, or a small embedded set.

A folder may be flat or hold one folder per class (ImageFolder); labels are not needed, since a changed model is held
against the original. Files need Pillow. The embedded set, for a first look without data, is scikit-learn's handwritten
digits where that is installed, else drawn: discs and bars of random colours on smooth noise.
"""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.data.files import PROCESSOR_FILES, blaming, content_key, files_of, folder_of
from layersmith.data.splits import check_split, share_out
from layersmith.data.windows import shuffled
from layersmith.errors import MissingExtra, UserError

PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
DRAWN = 8192  # pictures in the embedded set
MOST_TOKENS = 64  # a classifier gives one answer per picture, so enough of them must be seen, however large they are
DEFAULT_SIZE, DEFAULT_PATCH = 224, 16

View = Callable[[list[np.ndarray]], Tensor]


def pictures(model: nn.Module, source: str, split: str, count: int, seed: int) -> tuple[list[Tensor], str]:
    """Up to `count` distinct pictures of one split, each (C, H, W) as the model takes it; and in words what they are.

    source  a folder, or "stdlib" for the embedded set

    Raises UserError for a folder without pictures or a damaged file, MissingExtra without Pillow.
    """
    check_split(split)
    if source != "stdlib":
        return _from_folder(model, source, split, count, seed)
    view, how = _embedded_view(model)
    drawn, what = _digits() if find_spec("sklearn") else (None, "drawn discs and bars on smooth noise")
    total = DRAWN if drawn is None else len(drawn)
    shares = share_out([f"picture {index}" for index in range(total)])
    assert shares is not None
    indices = [shares[split][i] for i in shuffled(len(shares[split]), seed)[:count]]
    size = picture_size(model)
    chosen = [draw(index, *size[1:]) if drawn is None else drawn[index] for index in indices]
    facts = f"a small embedded set of {total:,} pictures ({what}), {how}; give --data FOLDER of pictures of your own"
    return list(view(chosen)), facts


def picture_size(model: nn.Module) -> tuple[int, int, int]:
    """(channels, height, width) as the config states them; 224 x 224 where it does not."""
    config = _vision(model)
    size = getattr(config, "image_size", None) or DEFAULT_SIZE
    height, width = (size, size) if isinstance(size, int) else size
    return int(getattr(config, "num_channels", None) or 3), int(height), int(width)


def patches(model: nn.Module) -> int:
    """How many tokens of text a picture counts for: the positions it makes, up to `MOST_TOKENS`."""
    _, height, width = picture_size(model)
    patch = getattr(_vision(model), "patch_size", None) or DEFAULT_PATCH
    down, across = (patch, patch) if isinstance(patch, int) else tuple(patch)[:2]
    return min(MOST_TOKENS, max(1, (height // down) * (width // across)))


def draw(index: int, height: int, width: int) -> np.ndarray:
    """Picture number `index` of the drawn set, (H, W, 3) in 0..255: smooth noise, then three discs or bars."""
    random = np.random.default_rng(index)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.ifft2(np.fft.fft2(random.standard_normal((3, height, width))) / frequency).real
    noise = noise / (np.abs(noise).max() + 1e-9)
    picture = np.clip(random.uniform(0.2, 0.8, (3, 1, 1)) + 0.4 * noise, 0, 1)
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    for _ in range(3):
        y, x, r = random.uniform(0, 1, 3) * (1, 1, 0.3)
        disc = (down - y) ** 2 + (across - x) ** 2 < r**2
        bar = (np.abs(down - y) < r) & (np.abs(across - x) < r / 3)
        picture = np.where(disc if random.random() < 0.5 else bar, random.uniform(0, 1, (3, 1, 1)), picture)
    return (255 * picture).round().astype(np.uint8).transpose(1, 2, 0)


def _from_folder(model: nn.Module, source: str, split: str, count: int, seed: int) -> tuple[list[Tensor], str]:
    paths = files_of(source, PICTURES, "pictures")
    if not find_spec("PIL"):
        raise MissingExtra("pillow", "vision", f"Reading the pictures in {source!r}")
    distinct = list({content_key(path): path for path in reversed(paths)}.items())
    shares = share_out([key for key, _ in distinct])
    if shares is None:
        raise UserError(
            f"{source!r} holds {len(distinct)} distinct picture(s) in {len(paths)} file(s), and fitting, choosing and "
            "healing each need some. Give more."
        )
    view, how = _view(model)
    indices = [shares[split][i] for i in shuffled(len(shares[split]), seed)[:count]]
    found = [view([_opened(distinct[index][1])])[0] for index in indices]
    if len({each.shape for each in found}) > 1:
        raise UserError(
            f"The model's processor makes inputs of different sizes from the pictures in {source!r}, so they do not "
            "form batches. Give pictures of one size."
        )
    return found, f"{len(distinct):,} distinct pictures, {how}"


def _opened(path: Path) -> np.ndarray:
    from PIL import Image

    with blaming(f"{str(path)!r} cannot be read as a picture"), Image.open(path) as picture:
        return np.array(picture.convert("RGB"))


def _embedded_view(model: nn.Module) -> tuple[View, str]:
    """As `_view`; without Pillow, on which the processor rests, the embedded pictures only take its mean and scale."""
    return _view(model) if find_spec("PIL") else _plain_view(model)


def _view(model: nn.Module) -> tuple[View, str]:
    """From pictures (H, W, 3) in 0..255 to what the model takes, by its own processor where it has one."""
    folder = folder_of(model, *PROCESSOR_FILES)
    if folder is None:
        return _plain_view(model)
    from transformers import AutoImageProcessor

    with blaming(f"The image processor in {folder!r} cannot be loaded"):
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    name = type(processor).__name__

    def view(found: list[np.ndarray]) -> Tensor:
        with blaming(f"The image processor in {folder!r} ({name}) cannot take these pictures"):
            return processor(images=found, return_tensors="pt")["pixel_values"]

    return view, f"through the model's own processor ({name})"


def _plain_view(model: nn.Module) -> tuple[View, str]:
    """Resized to the config's size, and normalised by the processor's mean and deviation, or to [-1, 1]."""
    channels, height, width = picture_size(model)
    mean, deviation, how = _normalisation(model)

    def view(found: list[np.ndarray]) -> Tensor:
        rows = []
        for picture in found:
            pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 255
            pixels = pixels if channels == 3 else pixels.mean(1, keepdim=True).expand(-1, channels, -1, -1)
            if pixels.shape[2:] != (height, width):
                pixels = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
            rows.append((pixels - _column(mean, channels)) / _column(deviation, channels))
        return torch.cat(rows)

    return view, f"at the {height} x {width} of the model's config, {how}"


def _normalisation(model: nn.Module) -> tuple[Any, Any, str]:
    folder = folder_of(model, *PROCESSOR_FILES)
    if folder is None:
        return 0.5, 0.5, "normalised to [-1, 1] since the model has no processor files"
    file = next(Path(folder) / name for name in PROCESSOR_FILES if (Path(folder) / name).is_file())
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        settings = settings.get("image_processor", settings)  # a processor of several parts holds them side by side
        mean, deviation = settings.get("image_mean", 0.5), settings.get("image_std", 0.5)
        torch.tensor(mean), torch.tensor(deviation)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{str(file)!r} cannot be read: {error}.") from error
    return mean, deviation, "normalised by its processor's mean and deviation (Pillow, which it needs, is missing)"


def _column(values: Any, channels: int) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(-1).expand(channels).reshape(1, channels, 1, 1)


def _digits() -> tuple[list[np.ndarray], str]:
    from sklearn.datasets import load_digits

    grey = (load_digits().images / 16 * 255).round().astype(np.uint8)
    return [np.repeat(digit[:, :, None], 3, axis=2) for digit in grey], "scikit-learn's handwritten digits, 8 x 8"


def _vision(model: nn.Module) -> Any:
    config: Any = getattr(model, "config", None)
    return getattr(config, "vision_config", None) or config
