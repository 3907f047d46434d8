"""Our `sub_ln` beside torchscale's decoder with subln: the places of its norms and the factors on its weights.

    python benchmarks/official/sub_ln.py CHECKOUT_OF_TORCHSCALE          (needs einops)

Places: three of our layers against three of theirs with equal weights, outputs and gradients. Factors: what each side
multiplies its own starting weights with. Those weights themselves are not compared: theirs are torch's default for a
linear map, because nothing calls their own reset_parameters; ours are Xavier's, as in the paper.
"""

from __future__ import annotations

import sys
import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import record
from checkout import commit

from layersmith.model import TransformerConfig, TransformerLM
from layersmith.scheme.shared.edits import attention_maps, ffn_maps, layers_of, xavier
from layersmith.scheme.sub_ln import SubLN

D, HIDDEN, HEADS, LAYERS = 32, 80, 4, 3
#: Our maps and theirs.
MAPS = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.out_proj"}
MAPS |= {"up": "ffn.fc1", "down": "ffn.fc2"}


def released(checkout: Path, layers: int, subln: bool = True) -> Any:
    """Their decoder without embedding and output map."""
    for name, needed in (("fairscale.nn", ("checkpoint_wrapper", "wrap")), ("timm.models.layers", ("drop_path",))):
        module = types.ModuleType(name)
        module.__dict__.update(dict.fromkeys(needed))  # imported, and not used with these settings
        sys.modules[name] = module
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    from torchscale.architecture.config import DecoderConfig
    from torchscale.architecture.decoder import Decoder

    config = DecoderConfig(
        decoder_embed_dim=D, decoder_attention_heads=HEADS, decoder_ffn_embed_dim=HIDDEN, decoder_layers=layers,
        subln=subln, no_output_layer=True,
    )  # fmt: skip
    return Decoder(config)


def ours(layers: int) -> TransformerLM:
    layer = {
        "norm": {"name": "layer_norm"},
        "mixer": {"name": "softmax_attention", "n_heads": HEADS, "bias": True, "out_bias": True},
        "ffn_norm": {"name": "layer_norm"},
        "ffn": {"name": "mlp", "d_hidden": HIDDEN, "act": "gelu"},
    }
    return TransformerLM(TransformerConfig(d_model=D, layers=layers * [layer], final_norm={"name": "layer_norm"}))


def maps(model: TransformerLM, index: int) -> dict[str, nn.Linear]:
    return attention_maps(model, index) | ffn_maps(model, index)


def factors(checkout: Path) -> float:
    """Largest difference of the factor on any weight, relative to the factor, in models of several depths."""
    worst = 0.0
    for layers in (1, 2, 12, 48):
        scaled, plain = [], []
        for weights, subln in ((scaled, True), (plain, False)):
            torch.manual_seed(0)
            weights.append(released(checkout, layers, subln))
        model = ours(layers)
        torch.manual_seed(0)
        SubLN().apply(model)
        found = [{k: m.weight.detach().clone() for k, m in maps(model, i).items()} for i in range(layers)]
        torch.manual_seed(0)
        for i in range(layers):
            for name, linear in maps(model, i).items():
                xavier(linear)
                path = f"layers.{i}.{MAPS[name]}"
                theirs = (scaled[0].get_submodule(path).weight / plain[0].get_submodule(path).weight).detach()
                mine = (found[i][name] / linear.weight).detach()
                worst = max(worst, *(float((mine / one - 1).abs().max()) for one in (theirs.min(), theirs.max())))
    return worst


def places(checkout: Path) -> float:
    """Largest difference of outputs and of all gradients, with all weights, gains and shifts random and equal.

    Relative to the largest entry, where that is above 1; the gradient of a key's bias is 0 but for rounding.
    """
    model, theirs = ours(LAYERS), released(checkout, LAYERS)
    SubLN().apply(model)
    pairs: list[tuple[Any, Any]] = [(model.final_norm, theirs.layer_norm)]
    for i, (mine, other) in enumerate(zip(layers_of(model), theirs.layers, strict=True)):
        pairs += [(linear, other.get_submodule(MAPS[name])) for name, linear in maps(model, i).items()]
        pairs += [(mine.norm, other.self_attn_layer_norm), (mine.ffn_norm, other.final_layer_norm)]
        pairs += [(mine.mixer.o.norm, other.self_attn.inner_attn_ln), (mine.ffn.down.norm, other.ffn.ffn_layernorm)]
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for a, _ in pairs for p in a.parameters())
    with torch.no_grad():
        for a, b in pairs:
            for p, q in ((a.weight, b.weight), (a.bias, b.bias)):
                p.add_(0.1 * torch.randn_like(p))
                q.copy_(p)
    x = torch.randn(2, 9, D, requires_grad=True)
    again = x.detach().clone().requires_grad_()
    y = hidden(model, x)
    target = theirs(torch.zeros(2, 9, dtype=torch.long), token_embeddings=again, features_only=True)[0]
    slope = torch.randn_like(y)
    (y * slope).sum().backward()
    (target * slope).sum().backward()
    compared = [(y, target), (x.grad, again.grad)]
    compared += [(p.grad, q.grad) for a, b in pairs for p, q in ((a.weight, b.weight), (a.bias, b.bias))]
    return max(float((p - q).detach().abs().max() / q.detach().abs().max().clamp_min(1)) for p, q in compared)


def hidden(model: TransformerLM, x: Tensor) -> Tensor:
    for layer in layers_of(model):
        x, _ = layer(x, None, None)
    return model.final_norm(x)


def main() -> None:
    checkout = Path(sys.argv[1])
    gain = factors(checkout)
    torch.manual_seed(0)
    place = places(checkout)
    print(f"factors {gain:.1e}, places {place:.1e}")
    path = record.save_official(
        "sub_ln",
        "sub_ln",
        f"github:microsoft/torchscale@{commit(checkout)}, torchscale/architecture/decoder.py Decoder",
        f"outputs and all gradients (relative to the largest, if above 1) of a decoder of {LAYERS} layers, width {D}, "
        "norms and biases random, float32; the factor on every weight of 1, 2, 12 and 48 layers (relative). Not "
        "compared: the starting weights that the factors multiply, torch's default in theirs; theirs scales biases "
        "too, ours are 0. fairscale and timm stood in for",
        max(gain, place),
        1e-5,
        f"einops {version('einops')}",
    )
    print(path)


if __name__ == "__main__":
    main()
