"""Training of transformer programs: a falling temperature, many tries side by side, and the choices made for good.

Adam on the mean cross entropy of what is asked; the temperature falls in equal ratios from 3 to 0.01. Of the tries that
one is taken which, made discrete, is right most often on what it was trained on.

Paper: "Learning Transformer Programs" (temperatures, learning rate; the best of several seeds: confirmed in the
released code). Differs from the paper: output weights become whole numbers of thousandths, so that a program's sums are
exact.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.explaining.programs.network import Gumbel, ProgramNetwork

FIRST, LAST = 3.0, 0.01
RATE, BATCH = 0.05, 64
#: Output weights are counted in 1 / UNITS of what was learnt.
UNITS = 1000
#: Where nothing is asked.
IGNORED = -100


@torch.enable_grad()
def learn(network: ProgramNetwork, ids: Tensor, targets: Tensor, steps: int, seed: int) -> ProgramNetwork:
    """The best of the network's tries, discrete and in float64. ids, targets (N, T) int64."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    for step in range(steps):
        temperature = FIRST * (LAST / FIRST) ** (step / max(1, steps - 1))
        rows = torch.randint(len(ids), (BATCH,), generator=generator, device="cpu")
        logits = network(ids[rows], Gumbel(temperature, generator))
        every = targets[rows].expand(network.tries, *targets[rows].shape)
        loss = F.cross_entropy(logits.flatten(0, -2), every.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        (loss * network.tries).backward()  # so that every try gets the gradient it would get alone
        optimizer.step()
    tries = [discrete(network, index) for index in range(network.tries)]
    return max(tries, key=lambda each: accuracy(each, ids, targets))


@torch.no_grad()
def discrete(network: ProgramNetwork, index: int) -> ProgramNetwork:
    """One try with every choice made: one-hot weights, and output weights that are whole numbers of thousandths."""
    layers, heads = len(network.heads()), len(network.heads()[0])
    made = ProgramNetwork(network.tokens, network.positions, network.answers, layers, heads).double()
    for name, weight in network.named_parameters():
        row = weight[index : index + 1].double()
        if name == "output":
            row = (row * UNITS).round()
        else:
            row = F.one_hot(row.argmax(-1), row.shape[-1]).double()
        made.get_parameter(name).copy_(row)
    return made


@torch.no_grad()
def accuracy(network: ProgramNetwork, ids: Tensor, targets: Tensor) -> float:
    """Share of what is asked that a single program has right."""
    asked = targets != IGNORED
    return float((network(ids)[0].argmax(-1) == targets)[asked].double().mean())
