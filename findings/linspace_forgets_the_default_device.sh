#!/usr/bin/env bash
# torch 2.13.0 with transformers 5.23.0 (CPU).
#
# Guess:   loading a model leaves torch's own functions as they were, so `with torch.device("meta"):` goes on to place
#          what every constructor makes.
# Seen:    when the first use of a device context in the process is the loading of a model, `torch.linspace` ignores
#          device contexts from then on ("cpu" for "meta"), while `torch.zeros` and `torch.arange` obey. A device
#          context that was entered once before the loading protects the process.
# Why:     transformers puts a stand-in for `torch.linspace` while it builds the model; torch keeps the list of
#          constructors that obey a device context from its first use, and that list then holds the stand-in.
# For us:  code under a device context names the device in `linspace`, or uses `arange`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
"$work/env/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0
cd "$work"
cat > check.py <<'PY'
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def devices():
    with torch.device("meta"):
        return [make.device.type for make in (torch.linspace(0, 1, 3), torch.zeros(3), torch.arange(3))]


sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
if sys.argv[1] == "used before":
    devices()
LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained("model")
LlamaForCausalLM.from_pretrained("model")
print(sys.argv[1], devices())
expected = {"used before": ["meta"] * 3, "not used before": ["cpu", "meta", "meta"]}
assert devices() == expected[sys.argv[1]], "the behaviour has changed"
PY
"$work/env/bin/python" check.py "used before"
"$work/env/bin/python" check.py "not used before"
