"""Shapes, dtypes, lengths: any leading dimensions, any number of tokens, zero included; the input stays as it is."""

from __future__ import annotations

import torch

from layersmith.check.subject import Failed, Subject, outputs, require_close, require_finite

LENGTHS = (1, 63, 65, 1000)


def shapes(subject: Subject) -> str:
    """Output shape for every legal input rank; token-wise families give the same values at every rank."""
    module = subject.build(torch.float64)
    x = subject.input(2, 3, 5, dtype=torch.float64)
    ranks = [x[0]] if subject.mixes_tokens else [x, x[0], x[0, 0], x[0, 0, 0]]
    whole = None if subject.mixes_tokens else outputs(module, x)
    for given in ranks:
        y = outputs(module, given)
        expected = (*given.shape[:-1], subject.d_out)
        if tuple(y.shape) != expected:
            raise Failed(f"input {tuple(given.shape)} gave {tuple(y.shape)}, expected {expected}")
        if whole is not None:
            same = whole[(0,) * (x.dim() - given.dim())]
            require_close(y, same, 1e-5, f"input of rank {given.dim()} against the same rows at rank {x.dim()}")
    return f"{len(ranks)} input rank(s)"


def dtypes(subject: Subject) -> str:
    """float32 and float64 in give float32 and float64 out, and the two agree, as far as the part says it computes."""
    x = subject.input(2, 9, dtype=torch.float64)
    wide = outputs(subject.build(torch.float64), x)
    narrow = outputs(subject.build(torch.float32), x.float())
    if (wide.dtype, narrow.dtype) != (torch.float64, torch.float32):
        raise Failed(f"float64 gave {wide.dtype} and float32 gave {narrow.dtype}")
    worst = require_close(narrow.double(), wide, max(1e-3, subject.part.rounds), "float32 against float64")
    return f"float32 against float64: relative error {worst:.0e}"


def odd_lengths(subject: Subject) -> str:
    """1, 63, 65 and 1000 tokens; where tokens cannot see later ones, a short run is the beginning of the long one."""
    module = subject.build(torch.float64)
    x = subject.input(1, max(LENGTHS), dtype=torch.float64)
    with torch.no_grad():
        longest = outputs(module, x)
        require_finite(longest, f"{max(LENGTHS)} tokens")
        for tokens in LENGTHS:
            y = outputs(module, x[:, :tokens])
            require_finite(y, f"{tokens} tokens")
            if not subject.mixes_tokens or module.causal:
                require_close(y, longest[:, :tokens], 1e-6, f"{tokens} tokens against the first of {max(LENGTHS)}")
            elif y.shape != x[:, :tokens].shape:
                raise Failed(f"{tokens} tokens gave {tuple(y.shape)}")
    return ", ".join(map(str, LENGTHS)) + " tokens"


def no_tokens(subject: Subject) -> str:
    """Zero tokens in, zero tokens out."""
    module = subject.build()
    y = outputs(module, subject.input(2, 0))
    if tuple(y.shape) != (2, 0, subject.d_out):
        raise Failed(f"input (2, 0, …) gave {tuple(y.shape)}")
    return "0 tokens"


def input_untouched(subject: Subject) -> str:
    """The forward pass changes neither its input nor, in evaluation mode, anything the part stores."""
    module = subject.build()
    x = subject.input(2, 9)
    kept, stored = x.clone(), {k: v.clone() for k, v in module.state_dict().items()}
    with torch.no_grad():
        outputs(module, x)
    if not torch.equal(x, kept):
        raise Failed("forward changed its input in place")
    changed = [k for k, v in module.state_dict().items() if not torch.equal(v, stored[k])]
    if changed:
        raise Failed(f"forward in evaluation mode changed {', '.join(changed)}")
    return "input and stored tensors unchanged"
