#!/usr/bin/env bash
# torch 2.13.0 with transformers 5.23.0 (CPU).
#
# Guess:   asking a model once for its hidden states leaves it as it was: later calls that ask for nothing cost what they
#          cost before.
# Seen:    after one call with output_hidden_states=True every block and every attention has a forward hook, for good.
#          Later calls that ask for nothing run all of them: a step of one token through eight layers of width 64 takes
#          1.033 of what it took (one thread, other work on the second core).
# Why:     transformers records by hooks that it installs at the first such call and never takes off; each looks into a
#          ContextVar whether it is to record, and a module with hooks takes torch's slow path through `_call_impl`.
# For us:  a swap has to make these hooks before anything is replaced, and made every swapped model pay for them; they are
#          parked until a model is asked (`anatomy/stand_in.py`). Whoever compares two models has to ask both or neither.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
"$work/env/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0
cd "$work"
cat > check.py <<'PY'
import copy
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
fresh = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=8)).eval()
asked = copy.deepcopy(fresh)
ids = torch.ones(1, 1, dtype=torch.long)


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def seconds(model):
    start = time.perf_counter()
    for _ in range(10):
        model(ids, use_cache=False)
    return time.perf_counter() - start


with torch.no_grad():
    before = hooks(asked)
    asked(ids, output_hidden_states=True)
    asked(ids)
    ratio = statistics.median(seconds(asked) / seconds(fresh) for _ in range(100))
print(f"hooks: {before} before, {hooks(asked)} after; a step that asks for nothing takes {ratio:.3f} of one before")
assert (before, hooks(fresh)) == (0, 0) and hooks(asked) >= 8, "the behaviour has changed"
PY
"$work/env/bin/python" check.py
