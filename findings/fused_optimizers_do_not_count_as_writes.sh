#!/usr/bin/env bash
# torch 2.13.0 (CPU).
#
# Guess:   a step of a fused optimizer is a write like any other: it raises the parameter's version, and a backward pass
#          through a graph that saved the old value stops with the usual error about an in-place operation.
# Seen:    with `fused=True` SGD, Adam and AdamW change the parameter and leave its version as it was. The backward pass
#          of a graph from before the step runs, and its gradient is made with the weights from after it. With
#          `fused=False` the same program raises RuntimeError.
# Why:     the fused kernels write into the tensors' memory without telling autograd's counter.
# For us:  weights behind a number format are rounded anew when their version says they were written to; so healing
#          steps with an optimizer that is not fused.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
cd "$work"
cat > check.py <<'PY'
import torch


def tried(make, fused):
    """How often a step counted as a write, and what a graph from before the step gave: a gradient, or an error."""
    weight = torch.nn.Parameter(torch.full((1, 1), 2.0))
    x = torch.ones(1, 1, requires_grad=True)
    optimizer = make([weight], lr=1.0, fused=fused)
    loss = (x @ weight).sum()  # saves the weight: d loss / d x = 2
    before = weight._version
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert weight.item() != 2.0
    try:
        loss.backward()
        return weight._version - before, round(x.grad.item(), 2)
    except RuntimeError:
        return weight._version - before, "RuntimeError"


for make in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
    fused, plain = tried(make, True), tried(make, False)
    print(f"{make.__name__}: fused {fused}, not fused {plain}")
    assert fused[0] == 0 and fused[1] != 2.0 and fused[1] != "RuntimeError", "the behaviour has changed"
    assert plain[0] > 0 and plain[1] == "RuntimeError", "the behaviour has changed"
PY
"$work/env/bin/python" check.py
