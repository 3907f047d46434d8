"""Sound for models that listen: recordings through the model's own feature extractor, or a small embedded set of tones.

`.wav` files of whole numbers are read with the standard library, all others with soundfile. Recordings are mixed to one
channel, brought to the model's rate and cut into clips of one length, so that nothing is padded but a recording shorter
than a clip. Clips of one recording stay in one split, unless the recordings are few.
"""

import wave
from collections.abc import Callable
from importlib.util import find_spec
from math import gcd, prod
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

SOUNDS = {".wav", ".flac"}
TONES = 1024  # clips in the embedded set
MOST_TOKENS = 256  # so that several clips are seen even where one makes 1,500 positions (Whisper)
RATE, SECONDS = 16_000, 2.0  # of a clip, where the model does not say
DEFAULT_FRAMES = 200  # of a spectrum, where the config does not say
BANDS = ("num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim")
RATES = (1_000, 1_000_000)  # of recordings; a filter that resamples from others would be as long as they are odd
FEW_FILES = 32  # fewer recordings than this are split by clips: whole ones would be too coarse

Hear = Callable[[np.ndarray], Tensor]


class Ear:
    """How one model hears: `hear(clip)` makes its input, without a batch, from `samples` values in [-1, 1]."""

    def __init__(self, rate: int, seconds: float, hear: Hear, how: str):
        self.rate, self.samples, self.hear, self.how = rate, round(rate * seconds), hear, how


def clips(model: nn.Module, source: str, split: str, count: int, seed: int) -> tuple[list[Tensor], str]:
    """Up to `count` distinct clips of one split as the model takes them, and in words what they are.

    source  a folder or a file, or "stdlib" for the embedded set

    Raises UserError for a folder without recordings or a damaged file, MissingExtra where soundfile is needed.
    """
    check_split(split)
    ear = ear_of(model)
    if source != "stdlib":
        return _from_files(ear, source, split, count, seed)
    shares = share_out([f"tone {index}" for index in range(TONES)])
    assert shares is not None
    chosen = [shares[split][i] for i in shuffled(len(shares[split]), seed)[:count]]
    facts = (
        f"a small embedded set of {TONES:,} clips (synthesised tones of {ear.samples / ear.rate:g} s), {ear.how}; give "
        "--data FOLDER of recordings of your own"
    )
    return [ear.hear(tone(index, ear.samples, ear.rate)) for index in chosen], facts


def frames(model: nn.Module, heard: Tensor) -> int:
    """How many tokens of text a clip counts for: about the positions it makes, up to `MOST_TOKENS`."""
    strides = getattr(getattr(model, "config", None), "conv_stride", None)
    made = len(heard) // prod(strides or (320,)) if heard.dim() == 1 else max(heard.shape) // 2
    return min(MOST_TOKENS, max(1, made))


def tone(index: int, samples: int, rate: int) -> np.ndarray:
    """Clip number `index` of the embedded set: four notes with overtones that swell and fade, and a little noise."""
    random = np.random.default_rng(index)
    time = np.arange(samples) / rate
    found = 0.01 * random.standard_normal(samples)
    for _ in range(4):
        pitch, begin, length = random.uniform((80, 0, 0.1), (900, 0.8, 0.6)) * (1, time[-1] + 1e-9, time[-1] + 1e-9)
        swell = np.exp(-0.5 * ((time - begin - length / 2) / (length / 4 + 1e-9)) ** 2)
        wobble = pitch * time + random.uniform(0, 2) * np.sin(2 * np.pi * random.uniform(2, 7) * time)
        for overtone in (1, 2, 3):
            found += random.uniform(0.1, 1) / overtone * swell * np.sin(2 * np.pi * overtone * wobble)
    return (found / (np.abs(found).max() + 1e-9)).astype(np.float32)


def ear_of(model: nn.Module) -> Ear:
    """The model's own feature extractor where it has one; else inputs of the size its config states, in [-1, 1]."""
    main = str(getattr(model, "main_input_name", "input_values"))
    folder = folder_of(model, *PROCESSOR_FILES)
    if folder is None:
        return _plain_ear(model)
    from transformers import AutoFeatureExtractor

    with blaming(f"The feature extractor in {folder!r} cannot be loaded"):
        extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
        rate = int(getattr(extractor, "sampling_rate", RATE))
        seconds = float(getattr(extractor, "chunk_length", None) or SECONDS)

    def hear(clip: np.ndarray) -> Tensor:
        with blaming(f"The feature extractor in {folder!r} ({type(extractor).__name__}) cannot take these clips"):
            made = extractor(clip, sampling_rate=rate, return_tensors="pt")
            return made[main if main in made else next(iter(made))][0]

    return Ear(rate, seconds, hear, f"through the model's own feature extractor ({type(extractor).__name__})")


def _plain_ear(model: nn.Module) -> Ear:
    config: Any = model.config
    bins = next((value for name in BANDS if isinstance(value := getattr(config, name, None), int)), None)
    if bins is None or getattr(config, "conv_stride", None):
        return Ear(RATE, SECONDS, torch.from_numpy, "in [-1, 1] since the model has no feature extractor's files")
    # Whisper reads (bands, time), twice its positions for a convolution of stride 2; all others read (time, bands).
    bands_first = hasattr(config, "num_mel_bins") and hasattr(config, "max_source_positions")
    length = 2 * config.max_source_positions if bands_first else getattr(config, "max_length", None) or DEFAULT_FRAMES

    def hear(clip: np.ndarray) -> Tensor:
        window = torch.hann_window(400, device="cpu")
        spectrum = torch.stft(torch.from_numpy(clip), 400, 160, window=window, return_complex=True).abs()
        scaled = F.interpolate(spectrum.clamp_min(1e-5).log()[None, None], (bins, length), mode="bilinear")[0, 0]
        scaled = 2 * (scaled - scaled.min()) / (scaled.max() - scaled.min() + 1e-9) - 1
        return scaled if bands_first else scaled.T.contiguous()

    how = f"as spectra of {length} x {bins} in [-1, 1] since the model has no feature extractor's files"
    return Ear(RATE, length / 100, hear, how)


def _from_files(ear: Ear, source: str, split: str, count: int, seed: int) -> tuple[list[Tensor], str]:
    paths = files_of(source, SOUNDS, "recordings")
    distinct = list({content_key(path): path for path in reversed(paths)}.values())
    if len(distinct) < FEW_FILES:
        pieces = [piece for path in distinct for piece in _cut(read_sound(path, ear.rate), ear.samples)]
        contents = {piece.tobytes(): piece for piece in pieces}
        shares = share_out([content.hex() for content in contents])
        if shares is None:
            raise UserError(
                f"{source!r} holds {len(contents)} distinct clip(s) of {ear.samples / ear.rate:g} s in {len(paths)} "
                "file(s), and fitting, choosing and healing each need some. Give more."
            )
        held = list(contents.values())
        found = [held[index] for index in shares[split]]
        chosen = [found[i] for i in shuffled(len(found), seed)[:count]]
    else:
        shares = share_out([content_key(path) for path in distinct])
        assert shares is not None
        chosen = []
        for i in shuffled(len(shares[split]), seed):
            chosen += _cut(read_sound(distinct[shares[split][i]], ear.rate), ear.samples)
            if len(chosen) >= count:
                break
    heard = [ear.hear(clip) for clip in chosen[:count]]
    return heard, f"clips of {ear.samples / ear.rate:g} s from {len(distinct):,} distinct recordings, {ear.how}"


def read_sound(path: Path, rate: int) -> np.ndarray:
    """A recording as one channel of float32 samples in [-1, 1] at `rate` per second.

    Raises UserError for a damaged file, MissingExtra for one that only soundfile can read.
    """
    samples, found_rate = _plain_wav(path) if path.suffix.lower() == ".wav" else (None, 0)
    if samples is None:
        samples, found_rate = _by_soundfile(path)
    if not RATES[0] <= found_rate <= RATES[1]:
        raise UserError(f"{str(path)!r} cannot be read as sound: it says it holds {found_rate:,} samples a second.")
    if not np.isfinite(samples).all():
        raise UserError(f"{str(path)!r} cannot be read as sound: it holds NaN or infinity.")
    mono = samples.mean(axis=1)
    if found_rate != rate and len(mono):
        from scipy.signal import resample_poly

        common = gcd(found_rate, rate)
        mono = resample_poly(mono, rate // common, found_rate // common)
    return np.ascontiguousarray(mono, dtype=np.float32)


def _plain_wav(path: Path) -> tuple[np.ndarray | None, int]:
    """((samples, channels), rate) by the standard library; None for a .wav that does not hold whole numbers."""
    try:
        with wave.open(str(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except wave.Error as error:
        if "unknown format" in str(error):
            return None, 0
        raise UserError(f"{str(path)!r} cannot be read as sound: {error}.") from error
    except (OSError, EOFError) as error:
        raise UserError(f"{str(path)!r} cannot be read as sound: {error or 'it ends too early'}.") from error
    if width not in (1, 2, 3, 4) or not channels or not rate:
        raise UserError(f"{str(path)!r} holds samples of {width} bytes in {channels} channel(s) at {rate} Hz.")
    raw = raw[: len(raw) // (width * channels) * width * channels]
    if width == 1:
        values = np.frombuffer(raw, np.uint8).astype(np.float32) / 128 - 1
    else:
        # Widened to 4 bytes from below, so that the sign bit comes to stand where numpy expects it.
        wide = np.zeros((len(raw) // width, 4), np.uint8)
        wide[:, 4 - width :] = np.frombuffer(raw, np.uint8).reshape(-1, width)
        values = wide.view("<i4")[:, 0].astype(np.float32) / 2**31
    return values.reshape(-1, channels), rate


def _by_soundfile(path: Path) -> tuple[np.ndarray, int]:
    if not find_spec("soundfile"):
        raise MissingExtra("soundfile", "audio", f"Reading {str(path)!r}")
    import soundfile

    with blaming(f"{str(path)!r} cannot be read as sound"):
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    return samples, int(rate)


def _cut(samples: np.ndarray, length: int) -> list[np.ndarray]:
    """Clips of `length` samples; a rest is left out, unless it is all there is: then silence follows it."""
    whole = len(samples) // length
    if whole:
        return [samples[i * length : (i + 1) * length] for i in range(whole)]
    return [np.pad(samples, (0, length - len(samples)))] if len(samples) else []
