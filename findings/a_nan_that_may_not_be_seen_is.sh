#!/usr/bin/env bash
# torch 2.13.0 (CPU).
#
# Guess:   a NaN in the key or value of a token reaches that token and those after it, whichever way
#          scaled_dot_product_attention is told that attention is causal.
# Seen:    60 tokens, a NaN in token 52. In its key: with is_causal=True none of the 52 tokens before it is NaN, with the
#          same triangle as attn_mask (boolean or -inf) all 52 are. In its value: all 52 are in all three ways.
# Why:     a mask is added to the scores, and NaN - inf is NaN, where is_causal overwrites them; a weight of 0 times a
#          value of NaN is NaN.
# For us:  what pads a text must be finite, and a model's outputs say nothing of which token was not; the kernel for causal
#          attention keeps a NaN key where it may be seen and says what it does with a value (kernels/causal).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
cd "$work"
cat > check.py <<'PY'
import torch
from torch.nn.functional import scaled_dot_product_attention as attention

TOKENS, AT = 60, 52
torch.manual_seed(0)
q, k, v = (torch.randn(1, 2, TOKENS, 16) for _ in range(3))
seen = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
ways = {
    "is_causal": {"is_causal": True},
    "boolean mask": {"attn_mask": seen},
    "mask of -inf": {"attn_mask": torch.zeros(TOKENS, TOKENS).masked_fill(~seen, -torch.inf)},
}


@torch.no_grad()
def reached(keys, values):
    """How many of the tokens before it are NaN."""
    return {name: int(attention(q, keys, values, **way)[0, 0, :AT].isnan().any(-1).sum()) for name, way in ways.items()}


def with_nan(x):
    x = x.clone()
    x[0, 0, AT, 2] = torch.nan
    return x


in_key, in_value = reached(with_nan(k), v), reached(k, with_nan(v))
print("in its key:", in_key)
print("in its value:", in_value)
assert in_key == {"is_causal": 0, "boolean mask": AT, "mask of -inf": AT}, "the behaviour has changed"
assert in_value == dict.fromkeys(ways, AT), "the behaviour has changed"
PY
"$work/env/bin/python" check.py
