#!/usr/bin/env bash
# torch 2.13.0 with transformers 5.23.0 (CPU).
#
# Guess:   an empty subclass of a transformers model loads as its parent does.
# Seen:    a subclass of FalconH1ForCausalLM, defined in the user's own module, comes back with every parameter equal and
#          with undefined memory in `mup_vector`, a buffer that is computed when the model is made and not saved; logits
#          are NaN or wrong, and nothing is said. The parent, from the same folder, is exact.
# Why:     weights are loaded into a model without memory, and what no file holds is filled afterwards by the model's own
#          _init_weights. Of classes that are not transformers' own, modules without parameters of their own are skipped.
# For us:  what no file holds is computed again when one of our models is loaded, and the proof that a saved model is the
#          measured one also compares these buffers.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
"$work/env/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0
cd "$work"
cat > check.py <<'PY'
import torch
from transformers import FalconH1Config, FalconH1ForCausalLM


class Mine(FalconH1ForCausalLM):
    pass


sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
mamba = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
multipliers = {"ssm_multipliers": [0.5, 0.25, 0.7, 0.9, 0.35], "mamba_chunk_size": 16}
model = FalconH1ForCausalLM(FalconH1Config(**sizes, **heads, **mamba, **multipliers)).eval()
model.save_pretrained("model")
right = {}
for kind in (FalconH1ForCausalLM, Mine):
    unlike = [torch.full((1, 1, 100), 7.0) for _ in range(500)]  # memory that was used before
    del unlike
    again = kind.from_pretrained("model").eval()
    equal = all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))
    right[kind] = torch.equal(model.model.layers[0].mamba.mup_vector, again.model.layers[0].mamba.mup_vector)
    print(f"{kind.__name__}: parameters equal: {equal}; the buffer is right: {right[kind]}")
    assert equal
assert right == {FalconH1ForCausalLM: True, Mine: False}, "the behaviour has changed"
PY
"$work/env/bin/python" check.py
