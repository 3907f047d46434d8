"""Turn a feed-forward into PEER: its hidden neurons become experts, found by product keys made of their directions.

Paper: arXiv 2407.04153, "Mixture of A Million Experts". Each neuron gets a slot (a, b) whose two half keys are near
its own (an optimal assignment to clustered halves), so that a token finds the neurons that would contribute most;
scores are shifted so that every sigmoid weight is 1. What the neurons not found would have added is made up for by
ridge regression of the output rows. With share 1 an MLP without biases is reproduced exactly. From a gated
feed-forward the gate branch is kept.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.peer import PEER
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import ridge
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from layersmith.refitting.methods.replace.neuron_keys import (
    NeuronKeys,
    d_key_of,
    features,
    neuron_keys,
    set_search,
    side,
)
from layersmith.refitting.view import SublayerView

#: The optimal assignment takes seconds above this many neurons.
MOST = 4096
#: Added to every score: sigmoid(20) is 1 in float32.
SHIFT = 20.0


class ToPEER(Method):
    name = "peer"
    kinds = ("ffn",)
    papers = ("2407.04153",)
    builds = ("peer",)
    default = False
    saves = ("params", "bytes", "flops")
    requires = "a plain or gated feed-forward of at most a few thousand hidden channels"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "In counted FLOPs, and where tokens come one at a time and only the rows found are read; at prefill a dense "
        "layer of this size is faster, so it is offered only when asked for."
    )
    differs = "The start is a trained layer; one head, sigmoid weights, queries not normalised."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if view.ffn is None:
            return "it is not a plain or gated feed-forward"
        hidden = view.ffn.operator.down.in_features
        return f"assigning {hidden} neurons to keys would take too long (at most {MOST})" if hidden > MOST else None

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"share": 0.5}, {"share": 0.25}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        mlp, x = nearest_mlp(view), view.inputs
        hidden = mlp.up.out_features
        keys = neuron_keys(mlp, x, mlp.down.weight.norm(dim=0))
        n_keys = side(hidden)
        k = max(1, round(settings["share"] * n_keys**2))
        peer = PEER(view.site.d_model, n_keys, k=k, act=mlp.spec()["act"], weights="sigmoid", **d_key_of(keys))
        peer.to(view.device)
        set_search(peer.search, keys, n_keys, view.seed)
        slot = slots_near(keys, peer.search.keys[0])
        peer.up.zero_()
        peer.down.zero_()
        peer.up[slot], peer.down[slot] = mlp.up.weight, mlp.down.weight.T
        half = keys.first.shape[1]
        peer.search.keys[0, 0, :, half - 1] += SHIFT / 2
        peer.search.keys[0, 1, :, half - 1] += SHIFT / 2
        _, chosen = peer.search(x)
        neurons = peer.act(x @ peer.up.T).gather(1, chosen[:, 0])
        found = features(chosen[:, 0], neurons, n_keys**2)
        missing, _ = ridge(found, view.targets - found @ peer.down, bias=False)
        peer.down.add_(missing.T)
        return view.as_replacement(peer)


def slots_near(keys: NeuronKeys, halves: Tensor) -> Tensor:
    """(d_hidden,): a slot of its own for each neuron, the sum of squared distances to its half keys being least."""
    first = torch.cdist(keys.first, halves[0]).square()
    second = torch.cdist(keys.second, halves[1]).square()
    cost = (first[:, :, None] + second[:, None, :]).flatten(1)
    return torch.from_numpy(linear_sum_assignment(cost.double().cpu().numpy())[1]).to(cost.device)
