"""Maximal update: AdamW with rates, and a start, that keep what a step does to a model alike at every width.

    r = base_width / width            matrices in layers: lr r         logits: times r
    attention scores: times sqrt(r)   everything else: lr

A matrix that reads d numbers of order one moves each of its outputs by d lr in a step of Adam, so its rate has to fall
like 1 / d. The variance of such a matrix is of order 1 / d already, as parts here start. Heads widen with the model,
and a query comes to point along its keys while it learns: scores then grow like head_dim and not like its root. With
zero, output map and query maps start at 0, where no width shows. At the base width, without zero, this is AdamW.

Logits times r are an output map that starts, and is moved by a step of Adam, r times as far.

Paper: Lingle 2024, "A Large-Scale Exploration of μ-Transfer", arXiv 2404.05728. Confirmed in its released code
(lucaslingle/mu_transformer): the rates of all kinds of weights relative to a base width, the 1 / head_dim of scores, an
output map that starts like 1 / width, queries and output map at 0.
Differs from the paper: a wider model has wider heads, where the paper's has more heads of 128, so that its scores keep
one factor; weight decay is multiplied by the rate of its kind, as torch has it, where the paper has none in most runs
and tries both this and a decay apart from the rate; embeddings start as ever, the paper's with a variance of 1.
"""

from __future__ import annotations

import torch
from torch import nn

from layersmith.mixer.shared.heads import HeadMixer
from layersmith.racing.optimizer import BETAS, ENDS, Rule


class MupAdamW(Rule):
    """
    base_width  of the model at which the learning rate was found
    zero        start the output map and all maps to queries at 0
    """

    name = "mup_adamw"
    summary = "AdamW with rates and a start for each kind of weights that let one learning rate serve every width."
    papers = ("large-scale-exploration-transfer",)

    def __init__(self, base_width: int = 64, zero: bool = False):
        if isinstance(base_width, bool) or not isinstance(base_width, int) or base_width < 1:
            raise ValueError(f"mup_adamw: base_width must be a positive integer, not {base_width!r}.")
        if not isinstance(zero, bool):
            raise ValueError(f"mup_adamw: zero must be true or false, not {zero!r}.")
        self.base_width, self.zero = base_width, zero

    def optimizers(self, model: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
        ratio = self.base_width / width_of(model)
        start(model, ratio, self.zero)
        kinds: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, p in model.named_parameters():
            if p.requires_grad:
                matrix = p.ndim > 1
                times = ratio if matrix and name.partition(".")[0] not in ENDS else 1.0
                kinds.setdefault((times, weight_decay if matrix else 0.0), []).append(p)
        groups = [{"params": found, "times": t, "weight_decay": decay} for (t, decay), found in kinds.items()]
        return [torch.optim.AdamW(groups, lr=lr, betas=BETAS)]


def width_of(model: nn.Module) -> int:
    """The width of the stream: of what the embedding of a model of a race gives."""
    embed = model.get_submodule(ENDS[0])
    if isinstance(embed, nn.Embedding):
        return embed.embedding_dim
    return next(p.shape[0] for p in embed.parameters())


@torch.no_grad()
def start(model: nn.Module, ratio: float, zero: bool) -> None:
    """Scale logits and attention scores of a fresh model; see `MupAdamW`."""
    head = model.get_submodule(ENDS[1])
    head.register_forward_hook(lambda module, given, logits: ratio * logits)
    if zero:
        for p in head.parameters():
            p.zero_()
    for part in model.modules():
        if not isinstance(part, HeadMixer):
            continue
        if hasattr(part, "scale"):
            scale = part.head_dim**-0.5 if part.scale is None else part.scale
            part.scale = scale * ratio**0.5
        if zero and isinstance(part.q, nn.Linear):
            nn.init.zeros_(part.q.weight)
