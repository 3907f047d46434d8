"""Remove attention heads: whole groups of query heads with their key-value head, or query heads within every group.

Papers: ZipLM, arXiv 2302.04089 (structured OBS: the head whose removal, with the output map refitted to the heads
that are left, changes the output least goes first); removing heads as such: Michel et al. 2019, arXiv 1905.10650.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith import catalogue
from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import positive
from layersmith.refitting.view import SublayerView

KEEPS = (0.75, 0.5, 0.25)
DAMP = 1e-4


class Heads(Method):
    name = "heads"
    kinds = ("mixer",)
    papers = ("2302.04089", "1905.10650")
    builds = ("softmax_attention",)
    #: What it adds to the default search has not been measured on a whole refit.
    default = False
    saves = ("latency", "params", "bytes", "flops", "kv")
    chains = True
    requires = "softmax attention of a known form with more than one query head"
    statistics = ("grams",)
    when_it_pays = (
        "Wherever attention takes its share of the time and only all of it, or nothing, could be removed before; "
        "removed groups shrink the key-value cache as well."
    )
    differs = (
        "Every group of query heads keeps equally many, because the kernels want a rectangle; the refit is damped "
        "towards the trained weights, and what the removed heads gave on average goes into the output's bias."
    )
    missing = "the rank of heads by the gradient at a gate of each, of arXiv 1905.10650"

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if view.attention is None:
            return "it is not a softmax attention of a known form"
        return None if self.options(view) else "it has a single query head already"

    def options(self, view: SublayerView) -> list[Settings]:
        """`groups` that are left of the key-value heads, or `queries` that are left to each of them."""
        groups, queries = layout(view)
        fewer = {"groups": groups, "queries": queries}
        return [
            {name: left}
            for name, count in fewer.items()
            for left in dict.fromkeys(max(1, round(keep * count)) for keep in KEEPS)
            if left < count
        ]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        full, path = view.attention.operator, view.attention.parts["o"]
        groups, queries = layout(view)
        columns = torch.arange(full.o.in_features, device=view.device)
        if "groups" in settings:
            units, pools = columns.view(groups, -1), columns[:groups][None]
        else:
            units, pools = columns.view(groups * queries, -1), columns[: groups * queries].view(groups, queries)
        (left,) = settings.values()
        # Centred: what is the same for every token is the bias's to give.
        mean = view.means[path].double()
        gram = positive(view.grams[path].double() - mean[:, None] * mean, DAMP)
        weight = full.o.weight.double()
        kept, refitted = eliminate(gram, weight, units, pools, left)
        bias = weight @ mean - refitted @ mean[kept]
        kv_heads = (kept // (queries * full.head_dim)).unique()
        spec = {"n_heads": len(kept) // full.head_dim, "n_kv_heads": len(kv_heads), "head_dim": full.head_dim}
        small = catalogue.build({**full.spec(), **spec, "out_bias": True}).to(view.device)
        state = full.state_dict()
        for name, tensor in state.items():
            if name.startswith("q."):
                state[name] = tensor[kept]
            elif name.startswith(("k.", "v.")):
                state[name] = tensor.unflatten(0, (groups, -1))[kv_heads].flatten(0, 1)
        state["o.weight"], state["o.bias"] = refitted, bias + state.get("o.bias", 0.0)
        small.load_state_dict(state)
        return view.as_replacement(small)


def layout(view: SublayerView) -> tuple[int, int]:
    """(key-value heads, query heads for each of them) of a recognised attention."""
    full = view.attention.operator
    return full.k.out_features // full.head_dim, full.q.out_features // full.k.out_features


def eliminate(gram: Tensor, weight: Tensor, units: Tensor, pools: Tensor, left: int) -> tuple[Tensor, Tensor]:
    """Remove units, the cheapest first, until every pool has `left`; after each, refit the weights that remain.

    gram    (d_in, d_in) positive definite, of the inputs z
    weight  (d_out, d_in): what is kept is y = weight z
    units   (n, width): the inputs that go together. pools (m, n / m): which units take turns
    Returns the inputs that are left, ascending, and the weights on them: the minimum over w of
    tr((weight - w) gram (weight - w)^T) with w zero elsewhere. Each removal of inputs u costs tr(w_u K_uu^-1 w_u^T)
    with K the inverse of the gram of what is left (the group form of optimal brain surgeon).
    """
    weight, inverse = weight.clone(), torch.linalg.inv(gram)
    remaining = [pool.tolist() for pool in pools]
    while any(len(pool) > left for pool in remaining):
        costs = {}
        for pool in remaining:
            for unit in pool if len(pool) > left else ():
                u = units[unit]
                costs[unit] = torch.trace(weight[:, u] @ torch.linalg.solve(inverse[u][:, u], weight[:, u].T)).item()
        cheapest = min(costs, key=costs.__getitem__)
        u = units[cheapest]
        fix = torch.linalg.solve(inverse[u][:, u], inverse[u])
        weight -= weight[:, u] @ fix
        inverse -= inverse[:, u] @ fix
        for pool in remaining:
            if cheapest in pool:
                pool.remove(cheapest)
    kept = units[sorted(unit for pool in remaining for unit in pool)].flatten()
    return kept, weight[:, kept]
