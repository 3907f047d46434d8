"""Turn softmax attention into a Mamba-2 layer, whose state has a constant size, from the trained weights.

Values become x, keys B, queries C, with their norms and their rotation, and the output map is carried over; a group of
queries reads the states of its key and value as before. The convolution starts as one that changes nothing, the skip
at 0, steps the same for all tokens and, like decays, as long as in a fresh Mamba-2. The norm behind the scan takes the
place of the softmax's normaliser; it starts with the one factor that comes closest to what the attention gave out.

Paper: arXiv 2503.13440, "MaTVLM" (values to x, keys to B, queries to C, distillation).
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.mixer.mamba2 import Mamba2
from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.view import SublayerView

#: What is done to queries and keys before they meet: the same in both, by the same names.
SHARED = ("rope_theta", "rope_fraction", "rope_interleaved", "qk_norm", "qk_norm_eps")


class ToMamba2(Method):
    name = "mamba2"
    kinds = ("mixer",)
    papers = ("2503.13440",)
    missing = "the distillation of a whole vision-language model in one stage, and the differential loss"
    builds = ("mamba2",)
    default = False
    saves = ("kv", "flops")
    requires = "causal softmax attention of a known form"
    statistics = ("outputs",)
    distils = True
    when_it_pays = (
        "Long contexts and decoding, where the cache becomes a constant-size state; in place of some of the layers, "
        "chosen by the search, rather than of all."
    )
    differs = (
        "Queries and keys stay rotated, grouped queries read one state instead of having keys and values repeated for "
        "them, and there is no gate and no silu behind the convolution."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if not view.attention:
            return "it is not a softmax attention of a known form"
        return None if view.attention.operator.causal else "its tokens read what comes after them, and a state cannot"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(view.seed)
            part = started(view.attention.operator)
        part.to(view.device)
        targets = view.outputs if part.o.bias is None else view.outputs - part.o.bias
        heads = _mixed(view, part) @ part.o.weight.T
        assert part.norm is not None  # the default has it; for the type checker
        part.norm.mul_((heads * targets).sum() / heads.square().sum().clamp_min(1e-12))
        return view.as_replacement(part)


@torch.no_grad()
def started(full: SoftmaxAttention) -> Mamba2:
    """A Mamba-2 layer with the maps of an attention; its steps and decays are drawn from torch's global generator."""
    config = full.spec()
    shared = {name: config[name] for name in SHARED}
    part = Mamba2(
        config["d_model"],
        full.n_kv_heads,
        head_dim=full.head_dim,
        d_state=full.head_dim,
        n_groups=full.n_kv_heads,
        queries=config["n_heads"] // full.n_kv_heads,
        gated=False,
        silu=False,
        bias=config["bias"] or config["out_bias"],
        conv_bias=False,
        **shared,
    )
    part.q_norm.load_state_dict(full.q_norm.state_dict())
    part.k_norm.load_state_dict(full.k_norm.state_dict())
    for ours, trained in ((part.x, full.v), (part.b, full.k), (part.c, full.q), (part.o, full.o)):
        ours.weight.copy_(trained.weight)
        if ours.bias is not None:
            ours.bias.copy_(torch.zeros_like(ours.bias) if trained.bias is None else trained.bias)
    part.conv.weight.zero_()
    part.conv.weight[..., -1] = 1.0
    part.dt.weight.zero_()
    part.d.zero_()
    return part


def _mixed(view: SublayerView, part: Mamba2) -> Tensor:
    """(tokens, .) what enters the output map on the fit calls."""
    hook = part.o.register_forward_hook(lambda _, args, output: args[0])
    try:
        return torch.cat([call.real(part(call.input, mask=call.mask)[0]) for call in view.fit])
    finally:
        hook.remove()
