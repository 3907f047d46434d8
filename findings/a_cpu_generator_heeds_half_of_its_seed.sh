#!/usr/bin/env bash
# torch 2.13.0 (CPU).
#
# Guess:   `torch.Generator().manual_seed(seed)` takes any 64-bit seed, so different seeds give different numbers.
# Seen:    seeds that differ only in their upper 32 bits give the same numbers, while `initial_seed()` tells them apart.
#          So `(stream << 32) + seed` gives every stream the same numbers: training, validation and test data alike.
# Why:     the CPU's generator is a 32-bit Mersenne Twister, seeded with the lower half.
# For us:  streams of a seed are told apart by a digest modulo 2^32 (racing/train.py).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
cd "$work"
cat > check.py <<'PY'
import torch

low, high = 7, (1 << 32) + 7
generators = [torch.Generator().manual_seed(seed) for seed in (low, high)]
numbers = [torch.rand(4, generator=generator) for generator in generators]
print([generator.initial_seed() for generator in generators], numbers)
assert generators[0].initial_seed() != generators[1].initial_seed()
assert torch.equal(*numbers), "the behaviour has changed"
PY
"$work/env/bin/python" check.py
