"""Data whose dictionary is known: each row is the sum of a few atoms."""

import torch
from torch import Tensor

D, ATOMS, ACTIVE = 32, 64, 3


def planted(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(rows, D) sums of ACTIVE of the (ATOMS, D) atoms, which are unit vectors, and the atoms."""
    draw = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(ATOMS, D, generator=draw), dim=-1)
    chosen = torch.rand(rows, ATOMS, generator=draw).argsort(1)[:, :ACTIVE]
    values = torch.rand(rows, ACTIVE, generator=draw) + 0.5
    return torch.zeros(rows, ATOMS).scatter(1, chosen, values) @ atoms, atoms


def recovered(dictionary, atoms: Tensor) -> float:
    """Mean over the atoms of the largest cosine with a decoder row."""
    rows = torch.nn.functional.normalize(dictionary.decoder, dim=-1)
    return float((atoms @ rows.T).max(-1).values.mean().detach())
