"""Split feed-forward: a trained feed-forward's neurons in equal groups, of which each token uses a few.

    y = b + sum over shared e of E_e(x) + scale * sum over the chosen e of w_e E_e(x),   chosen = the k largest s_e
    E_e(x) = sum over its neurons i of act(g_i . x) (u_i . x) d_i,   without `gated`: act(u_i . x) d_i

Every neuron stands in one group, so with all groups chosen, w = 1 and scale = 1 this is the dense layer. What says
which groups a token needs is the gate:

    keys     s_e = the mean of k_i . x over the group; k_i = g_i, without `gated` u_i. It has no parameters of its own
    linear   s = R x + r
    mlp      s = M tanh(R x / |x|)
    oracle   s_e = sum over the group of |a_i|, a the hidden activations: for ReLU the sum of the positive ones. It
             computes every neuron, so nothing is skipped: the yardstick for the other three

    w_e = 1; in training 1 + p_e - (p_e without its gradient), p = softmax(s): the straight-through gradient of a router
    w_e = k softmax of the k chosen s, with `weigh`: 1 each where the chosen scores are equal

Shapes: x (..., D) -> s (N, E) -> y (..., D); n_shared + E groups, U and G (groups, d_expert, D), down
(groups, D, d_expert). Only what is chosen is computed, but for the oracle. Scores are computed in float32 at least.

`aux_losses` publishes "balance" (`shared.routing.balance_loss`) in training where `balance_weight` is not 0.

Papers: Zhang et al. 2021, "MoEfication", arXiv 2110.01786 (mlp, its normalised input, the oracle's sum: confirmed in
thunlp/MoEfication); Qiu et al. 2023, "Emergent Mixture-of-Experts" (keys, w = 1; in gated layers the mean of what
enters the gate's activation: confirmed in qiuzh20/EMoE); Zhao et al. 2024, "FactorLLM" (linear with bias: confirmed in
zhenwuweihe/FactorLLM, whose code forwards the hard choice); Zhu et al. 2024, "LLaMA-MoE" (softmax of the chosen scores
and a factor on what the experts add; from memory).
Differs from the papers: `weigh` is k times the softmax, so that all experts with equal scores are the dense layer; the
oracle of layers without ReLU goes by the size of the activations; LLaMA-MoE's noise on the scores is left out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, report_aux, require_positive, stored_bytes
from layersmith.errors import suggest
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared.activations import activation
from layersmith.ffn.shared.experts import grouped_linear, mix_experts
from layersmith.ffn.shared.routing import balance_loss
from layersmith.ffn.shared.split_gates import GATES


class SplitFFN(FeedForward):
    """Groups of a dense feed-forward's neurons: n_shared for every token, k of n_experts by the gate's choice.

    d_model, d_expert   widths of the residual stream and of one group's hidden layer
    n_experts, k        groups to choose from, and how many each token uses
    n_shared            groups that every token uses
    gate                "keys", "linear", "mlp" or "oracle"
    act, gated, bias    form of the feed-forward: that of `glu`, without `gated` that of `mlp`
    weigh               weigh the chosen groups by a router's scores instead of adding them up
    scale               factor on what the chosen groups add
    balance_weight      weight of the loss "balance" (0: not reported)
    """

    name = "split_ffn"

    def __init__(
        self,
        d_model: int,
        d_expert: int,
        n_experts: int,
        k: int,
        n_shared: int = 0,
        gate: str = "linear",
        act: str = "silu",
        gated: bool = True,
        bias: bool = False,
        weigh: bool = False,
        scale: float = 1.0,
        balance_weight: float = 0.0,
    ):
        super().__init__()
        require_positive(SplitFFN, d_model=d_model, d_expert=d_expert, n_experts=n_experts, k=k)
        if k > n_experts:
            raise ValueError(f"SplitFFN: k={k} experts per token, but there are only n_experts={n_experts}.")
        if n_shared < 0 or not balance_weight >= 0:
            raise ValueError(f"SplitFFN: n_shared={n_shared} and balance_weight={balance_weight} must be at least 0.")
        if gate not in GATES:
            raise ValueError(f"SplitFFN: unknown gate {gate!r}. {suggest(gate, list(GATES))}")
        if weigh and not GATES[gate].router:
            raise ValueError(f"SplitFFN: the gate {gate!r} has no scores to weigh by; use 'linear' or 'mlp'.")
        self.n_experts, self.k, self.n_shared = n_experts, k, n_shared
        self.weigh, self.scale, self.balance_weight = weigh, scale, balance_weight
        self.act = activation(act)
        groups = n_shared + n_experts
        self.up = nn.Parameter(torch.empty(groups, d_expert, d_model))
        self.gate = nn.Parameter(torch.empty(groups, d_expert, d_model)) if gated else None
        self.down = nn.Parameter(torch.empty(groups, d_model, d_expert))
        self.up_bias = nn.Parameter(torch.empty(groups, d_expert)) if bias else None
        self.gate_bias = nn.Parameter(torch.empty(groups, d_expert)) if bias and gated else None
        self.down_bias = nn.Parameter(torch.empty(d_model)) if bias else None
        self.reset_parameters()
        self.choice: Any = GATES[gate](d_model, n_experts)

    def reset_parameters(self) -> None:
        groups, d_model, d_expert = self.down.shape
        for name, parameter in self.named_parameters(recurse=False):  # as the nn.Linear maps of one dense feed-forward
            fan_in = groups * d_expert if name.startswith("down") else d_model
            nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)

    @classmethod
    def from_dense(
        cls,
        dense: GLU | MLP,
        groups: Tensor,
        k: int,
        gate: str,
        shared: Tensor | None = None,
        weigh: bool = False,
        scale: float = 1.0,
        balance_weight: float = 0.0,
    ) -> SplitFFN:
        """Regroup a trained feed-forward's neurons.

        groups (E, d_expert), shared (n_shared, d_expert): neuron indices that together name every neuron once. A router
        is left as it was drawn, for a method to fit. ValueError for indices that lose or repeat a neuron.
        """
        order = groups if shared is None else torch.cat([shared, groups])
        config, hidden = dense.spec(), dense.down.in_features
        if not torch.equal(order.flatten().sort().values, torch.arange(hidden, device=order.device)):
            raise ValueError(f"SplitFFN: the groups must name each of the {hidden} neurons once.")
        part = cls(
            config["d_model"],
            groups.shape[1],
            len(groups),
            k,
            n_shared=len(order) - len(groups),
            gate=gate,
            act=config["act"],
            gated=isinstance(dense, GLU),
            bias=config["bias"],
            weigh=weigh,
            scale=scale,
            balance_weight=balance_weight,
        ).to(dense.up.weight)
        with torch.no_grad():
            part.down.copy_(dense.down.weight[:, order].transpose(0, 1))
            part.up.copy_(dense.up.weight[order])
            if part.gate is not None and isinstance(dense, GLU):
                part.gate.copy_(dense.gate.weight[order])
            if part.up_bias is not None and part.down_bias is not None:
                part.up_bias.copy_(dense.up.bias[order])
                part.down_bias.copy_(dense.down.bias)
            if part.gate_bias is not None and isinstance(dense, GLU):
                part.gate_bias.copy_(dense.gate.bias[order])
        return part

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        score = self.scores(tokens)
        chosen = score.detach().topk(self.k, sorted=False).indices
        weight = self._weight(score, chosen)
        if self.training and self.balance_weight > 0:
            report_aux(self, "balance", self.balance_weight * balance_loss(score.softmax(-1), chosen))
        if self.n_shared and tokens.shape[0] == 1:  # of one token the shared groups run along with the chosen ones
            always = torch.arange(self.n_shared, device=x.device)[None]
            chosen = torch.cat([always, chosen + self.n_shared], dim=-1)
            weight = torch.cat([weight.new_ones(always.shape), weight], dim=-1)
            y = mix_experts(tokens, chosen, weight, self.n_shared + self.n_experts, self._run)
        else:
            y = mix_experts(tokens, chosen, weight, self.n_experts, self._run)
            for group in range(self.n_shared):
                y = y + self._shared(tokens, group)
        return (y if self.down_bias is None else y + self.down_bias).reshape(x.shape)

    def scores(self, tokens: Tensor) -> Tensor:
        """s of tokens (N, D), (N, E), in float32 at least: in 16 bits the scores of two groups are often equal."""
        with torch.autocast(tokens.device.type if tokens.device.type != "meta" else "cpu", enabled=False):
            score: Tensor = self.choice(tokens.to(torch.promote_types(tokens.dtype, torch.float32)), self)
        return score

    def keys(self) -> tuple[Tensor, Tensor | None]:
        """(groups, d_expert, D) and (groups, d_expert): what each neuron looks for, and its bias."""
        return (self.up, self.up_bias) if self.gate is None else (self.gate, self.gate_bias)

    def hidden(self, tokens: Tensor) -> Tensor:
        """The hidden activations of every neuron, (N, groups, d_expert)."""
        hidden = self.act(_dense(tokens, *self.keys()))
        return hidden if self.gate is None else hidden * _dense(tokens, self.up, self.up_bias)

    def _weight(self, score: Tensor, chosen: Tensor) -> Tensor:
        """(N, k): what each chosen group counts."""
        if self.weigh:
            return self.scale * self.k * score.gather(-1, chosen).softmax(-1)
        if self.training and self.choice.router:
            p = score.softmax(-1).gather(-1, chosen)
            return self.scale * (1 + p - p.detach())
        return torch.full_like(chosen, self.scale, dtype=score.dtype)

    def _shared(self, tokens: Tensor, group: int) -> Tensor:
        up = F.linear(tokens, self.up[group], None if self.up_bias is None else self.up_bias[group])
        if self.gate is None:
            return F.linear(self.act(up), self.down[group])
        bias = None if self.gate_bias is None else self.gate_bias[group]
        return F.linear(self.act(F.linear(tokens, self.gate[group], bias)) * up, self.down[group])

    def _run(self, rows: Tensor, counts: Tensor) -> Tensor:
        """rows (M, D) sorted by group, counts of the last groups, or of all of them -> (M, D)."""
        last = slice(len(self.up) - len(counts), None)
        up = _grouped(rows, self.up[last], None if self.up_bias is None else self.up_bias[last], counts)
        if self.gate is None:
            return grouped_linear(self.act(up), self.down[last], counts)
        gate = _grouped(rows, self.gate[last], None if self.gate_bias is None else self.gate_bias[last], counts)
        return grouped_linear(self.act(gate) * up, self.down[last], counts)

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        params = sum(p.numel() for p in self.parameters())
        held = [self.up, self.gate, self.down, self.up_bias, self.gate_bias]
        one = sum(p[0].numel() for p in held if p is not None)
        return Cost(
            params=params,
            active_params=params if self._config["gate"] == "oracle" else params - one * (self.n_experts - self.k),
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )


def _dense(tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Every group's map on every token: (N, D) -> (N, groups, d_expert)."""
    own = None if bias is None else bias.flatten().to(tokens.dtype)
    return F.linear(tokens, weight.flatten(0, 1).to(tokens.dtype), own).unflatten(-1, weight.shape[:2])


def _grouped(rows: Tensor, weight: Tensor, bias: Tensor | None, counts: Tensor) -> Tensor:
    """Each group's map on its own rows."""
    mapped = grouped_linear(rows, weight, counts)
    if bias is None:
        return mapped
    return mapped + bias.to(mapped.dtype).repeat_interleave(counts, dim=0, output_size=len(rows))
