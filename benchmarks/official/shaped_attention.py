"""Our `shaped_attention` beside that of simplified_transformers, whose author is a co-author of its paper.

    python benchmarks/official/shaped_attention.py CHECKOUT_OF_SIMPLIFIED_TRANSFORMERS

Theirs divides scores by sqrt(n_k), ours by tau sqrt(d n_k), so tau = 1 / sqrt(d) here: the temperature that falls with
the width is not in their code. Their three gains are at their starting value of 1, their maps of values and outputs are
plain ones, and whole causal sequences without padding are compared: theirs cannot go on from a cache with centring on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import record
from checkout import commit, load

from layersmith.mixer.shaped_attention import ShapedAttention

D, HEADS, TOKENS = 48, 4, 33

SETTINGS = {
    "max_position_embeddings": 64, "hidden_size": D, "num_attention_heads": HEADS, "n_layer": 2,
    "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
    "centre_attn": True, "attn_mat_resid_gain": 1, "attn_mat_skip_gain": 1, "centre_attn_gain": 1,
    "trainable_attn_mat_gains": False,
    "value_resid_gain": 1, "value_skip_gain": None, "first_layer_value_resid_gain": None, "val_init_type": "normal",
    "proj_resid_gain": 1, "proj_skip_gain": None, "last_layer_proj_resid_gain": None, "proj_init_type": "normal",
    "trainable_value_gains": False, "trainable_proj_gains": False,
    "query_init_std": None, "key_init_std": None, "val_proj_init_std": None,
    "qk_norm_type": "none", "dot_norm_type": "none", "layer_norm_epsilon": 1e-5, "attn_pdrop": 0.0, "resid_pdrop": 0.0,
}  # fmt: skip


def main() -> None:
    checkout = Path(sys.argv[1])
    torch.manual_seed(0)
    file = "simplified_transformers/model_utils.py"
    theirs = load(checkout, file).myGPT2Attention(SimpleNamespace(**SETTINGS), layer_idx=0)
    ours = ShapedAttention(D, HEADS, tau=D**-0.5)
    with torch.no_grad():
        for linear in (ours.q, ours.k):
            linear.weight.mul_(3)  # a softmax far from uniform
        theirs.qk_attn.weight.copy_(torch.cat((ours.q.weight, ours.k.weight)).T)
        theirs.v_attn.weight.copy_(ours.v.weight.T)
        theirs.c_proj.weight.copy_(ours.o.weight.T)
    x = torch.randn(2, TOKENS, D, requires_grad=True)
    again = x.detach().clone().requires_grad_()
    y, target = ours(x)[0], theirs(again)[0]
    slope = torch.randn_like(y)
    weights = [ours.q.weight, ours.k.weight, ours.v.weight, ours.o.weight]
    mine = torch.autograd.grad((y * slope).sum(), [x, *weights])
    other = torch.autograd.grad(
        (target * slope).sum(), [again, theirs.qk_attn.weight, theirs.v_attn.weight, theirs.c_proj.weight]
    )
    released = [other[0], *other[1].T.chunk(2), other[2].T, other[3].T]
    pairs = [(y, target), *zip(mine, released, strict=True)]
    print([f"{(a - b).abs().max():.1e} of {b.abs().max():.1e}" for a, b in pairs])
    source = f"github:bobby-he/simplified_transformers@{commit(checkout)}, {file} myGPT2Attention with centre_attn"
    compared = (
        f"outputs and gradients of input and q, k, v, o maps (relative to the largest), float32, width {D}, {HEADS} "
        f"heads, {TOKENS} tokens; gains 1, plain value and output maps, tau = 1 / sqrt(d), which undoes the width's "
        "part in our scale: theirs has none"
    )
    worst = max(float((a - b).detach().abs().max() / b.detach().abs().max()) for a, b in pairs)
    print(record.save_official("shaped_attention", "shaped_attention", source, compared, worst, 1e-5))


if __name__ == "__main__":
    main()
