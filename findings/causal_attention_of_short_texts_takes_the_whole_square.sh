#!/usr/bin/env bash
# torch 2.13.0 (CPU).
#
# Guess:   scaled_dot_product_attention(is_causal=True) computes the scores that may be seen, so it takes about half of the
#          time of the same call without it.
# Seen:    at 512 tokens both take the same time (0.97 to 1.00 of it, one thread, float32, nine heads of 64); at 2,048
#          tokens the causal call takes 0.6.
# Why:     the kernel for processors takes 512 keys at a time and leaves out whole blocks; up to 512 tokens there is one,
#          which is computed as a whole and masked.
# For us:  causal attention has a kernel that stops at the diagonal (kernels/causal); a budget of FLOPs counts the square.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
cd "$work"
cat > check.py <<'PY'
import statistics
import time

import torch
from torch.nn.functional import scaled_dot_product_attention as attention

torch.set_num_threads(1)


def seconds(causal, q, k, v):
    start = time.perf_counter()
    attention(q, k, v, is_causal=causal)
    return time.perf_counter() - start


@torch.no_grad()
def share(tokens):
    q, k, v = (torch.randn(1, 9, tokens, 64) for _ in range(3))
    rounds = [(seconds(True, q, k, v), seconds(False, q, k, v)) for _ in range(25)][5:]
    return statistics.median(causal / full for causal, full in rounds)


found = {tokens: share(tokens) for tokens in (512, 2048)}
print("causal / full:", {tokens: round(ratio, 2) for tokens, ratio in found.items()})
assert found[512] > 0.85, "the behaviour has changed: half of the square is left out"
assert found[2048] < 0.8, "the behaviour has changed: whole blocks are computed"
PY
"$work/env/bin/python" check.py
