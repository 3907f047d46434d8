#!/usr/bin/env bash
# torch 2.13.0 with transformers 5.23.0 (CPU).
#
# Guess:   what a model is asked for in a forward pass leaves no trace in it, so a model that could be pickled (handed to
#          a worker process, saved whole with torch.save) can be pickled afterwards.
# Seen:    after one forward pass with output_hidden_states=True, pickle.dumps(model) raises AttributeError: "Can't
#          pickle local object 'install_output_capuring_hook.<locals>.output_capturing_hook'". copy.deepcopy still works.
# Why:     the first request for hidden states or attentions puts hooks on the modules for good, and a hook is a function
#          defined inside another, which pickle cannot name.
# For us:  what records in our models can be pickled: its state says from what the hook is made.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
"$work/env/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0
cd "$work"
cat > check.py <<'PY'
import copy
import pickle

import torch
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
ids = torch.arange(8)[None]
model(ids)
print("after a plain forward pass:", len(pickle.dumps(model)) > 0)
model(ids, output_hidden_states=True)
copy.deepcopy(model)
try:
    pickle.dumps(model)
except AttributeError as error:
    print("after asking for hidden states:", error)
else:
    raise SystemExit("the behaviour has changed: the model can be pickled")
PY
"$work/env/bin/python" check.py
