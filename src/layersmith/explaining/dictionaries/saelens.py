"""Export to and import from the folder format of SAELens 6: cfg.json, sae_weights.safetensors, sparsity.safetensors.

SAELens knows no separate scales of inputs and outputs: they are folded into the weights. With f' = f / t in place of f,

    f' = act((s / t) W_enc x + b_enc / t),    y = f' W_dec + (s / t) W_skip x + b_dec / t

where every activation here commutes with 1 / t (thresholds are divided by t, too): decoder rows keep norm 1, and as s
and t are powers of two, nothing is rounded. What comes back has s = t = 1 and the same outputs. A dictionary that is
`centred` is an autoencoder there; any other is a transcoder. "batch_topk" goes out as "jumprelu" with equal thresholds,
as SAELens itself stores it.

Layout (read from the released package, 6.5.3): W_enc (d_in, d_sae), W_dec (d_sae, d_out), b_enc, b_dec, threshold,
W_skip (d_out, d_in); "gated" has b_gate, b_mag and r_mag in place of b_enc. sparsity: log10 of how often each feature
is active.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layersmith.errors import UserError
from layersmith.explaining.dictionaries import folder
from layersmith.ffn.sparse_dictionary import SparseDictionary

CONFIG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"
#: The first version of this layout.
VERSION = "6.0.0"
#: (activation, centred, skip) -> what SAELens calls it.
ARCHITECTURES = {
    ("topk", True, False): "topk",
    ("batch_topk", True, False): "jumprelu",
    ("jumprelu", True, False): "jumprelu",
    ("gated", True, False): "gated",
    ("relu", True, False): "standard",
    ("relu", False, False): "transcoder",
    ("relu", False, True): "skip_transcoder",
    ("jumprelu", False, False): "jumprelu_transcoder",
    ("batch_topk", False, False): "jumprelu_transcoder",
}
#: What SAELens calls it -> activation. An autoencoder need not be centred there.
ACTIVATIONS = {
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "standard": "relu",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
}


@torch.no_grad()
def export_saelens(
    dictionary: SparseDictionary, path: Path, metadata: dict[str, Any], density: Tensor | None = None
) -> None:
    """Write the folder. UserError for a dictionary that SAELens has no form for.

    metadata  what SAELens keeps beside a dictionary: model_name, hook_name, hook_name_out, context_size, ...
    density   (F,) share of tokens for which each feature is active
    """
    part = dictionary
    skips = part.skip is not None
    architecture = ARCHITECTURES.get((part.activation, part.centred, skips))
    if architecture is None:
        kind = "autoencoder" if part.centred else "skip transcoder" if skips else "transcoder"
        raise UserError(
            f"SAELens has no {kind} with the activation {part.activation!r}. It has autoencoders of every kind, "
            f'transcoders with "relu", "jumprelu" and (exported as jumprelu) "batch_topk", and skip transcoders with '
            f'"relu". Save it with save_dictionary, or train one of these.'
        )
    ratio, written = part.input_scale / part.output_scale, part.output_scale
    tensors = {
        "W_enc": part.encoder.weight.T * ratio,
        "W_dec": part.decoder,
        "b_dec": part.bias / written,
    }
    bias = part.encoder.bias / written
    if architecture == "gated":
        tensors |= {"b_gate": bias, "b_mag": part.magnitude_bias / written, "r_mag": part.log_ratio}
    else:
        tensors["b_enc"] = bias
    if "jumprelu" in architecture:
        tensors["threshold"] = (part.threshold / written).expand(len(part.decoder))
    if part.skip is not None:
        tensors["W_skip"] = part.skip * ratio
    sparsity = {} if density is None else {SPARSITY: {"sparsity": density.float().clamp_min(1e-10).log10()}}
    folder.write(Path(path), {CONFIG: _config(part, architecture, metadata)}, {WEIGHTS: tensors, **sparsity})


def _config(part: SparseDictionary, architecture: str, metadata: dict[str, Any]) -> dict[str, Any]:
    features, width = part.decoder.shape
    config = {
        "architecture": architecture,
        "d_in": width,
        "d_sae": features,
        "dtype": str(part.decoder.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": part.centred,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": VERSION, "model_from_pretrained_kwargs": {}, **metadata},
    }
    if architecture == "topk":
        config["k"] = part.k
    if architecture.endswith("transcoder"):
        config["d_out"] = width
    return config


@torch.no_grad()
def import_saelens(path: Path) -> tuple[SparseDictionary, dict[str, Any], Tensor | None]:
    """The dictionary in evaluation mode, its metadata, and how often each feature was active, (F,), if that is there.

    Raises UserError for an architecture, a normalisation or widths that cannot stand here.
    """
    path = Path(path)
    config, tensors = folder.read_json(path / CONFIG), folder.read_tensors(path / WEIGHTS)
    architecture = config.get("architecture")
    if architecture not in ACTIVATIONS:
        raise UserError(f"{path} holds a SAELens {architecture!r}; what can be read is {', '.join(ACTIVATIONS)}.")
    if config.get("normalize_activations", "none") != "none":
        raise UserError(
            f"{path} normalises what it reads ({config['normalize_activations']!r}), by numbers that are not in the "
            f"folder. Fold them into its weights with SAELens first (fold_activation_norm_scaling_factor), and save it."
        )
    try:
        part = _built(config, architecture, tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"The SAELens folder {path} does not hold what its cfg.json says: {error}.") from error
    density = None
    if (path / SPARSITY).is_file():
        density = 10 ** folder.read_tensors(path / SPARSITY)["sparsity"]
    return part.eval().requires_grad_(False), config.get("metadata", {}), density


def _built(config: dict[str, Any], architecture: str, tensors: dict[str, Tensor]) -> SparseDictionary:
    decoder = tensors["W_dec"]
    features, width = decoder.shape
    if tensors["W_enc"].shape != (width, features):
        raise ValueError(f"it reads {len(tensors['W_enc'])} channels and writes {width}; only equal widths stand here")
    transcodes = architecture.endswith("transcoder")
    part = SparseDictionary(
        width,
        features,
        k=config["k"] if architecture == "topk" else min(32, features),
        activation=ACTIVATIONS[architecture],
        skip="W_skip" in tensors,
        centred=not transcodes and bool(config.get("apply_b_dec_to_input", True)),
    ).to(decoder.dtype)
    # SAELens may rank features by pre-activation times the norm of the decoder row; that norm goes into the encoder.
    length = decoder.norm(dim=-1) if config.get("rescale_acts_by_decoder_norm") else decoder.new_ones(features)
    part.encoder.weight.copy_(tensors["W_enc"].T * length[:, None])
    part.encoder.bias.copy_(tensors["b_gate" if architecture == "gated" else "b_enc"] * length)
    part.decoder.copy_(decoder / length[:, None])
    part.bias.copy_(tensors["b_dec"])
    if part.skip is not None:
        part.skip.copy_(tensors["W_skip"])
    if architecture == "gated":
        part.magnitude_bias.copy_(tensors["b_mag"])
        part.log_ratio.copy_(tensors["r_mag"])
    if "jumprelu" in architecture:
        part.threshold.copy_(tensors["threshold"])
    return part
