"""Replace a norm by Dynamic Tanh: gamma * tanh(alpha x) + beta, with alpha fitted to the norm's own outputs.

Paper: arXiv 2503.10622, "Transformers without Normalization". A fitted alpha is one number for all tokens, while a
norm scales each token by its own size: the local error says how much that matters at this site.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith import catalogue
from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.view import SublayerView


class ToDyT(Method):
    name = "dyt"
    kinds = ("norm",)
    papers = ("2503.10622",)
    builds = ("dyt",)
    default = False
    saves = ()
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "On hardware where the reduction of a norm is the bottleneck; on the CPUs measured it was nowhere faster, so "
        "it is offered when asked for."
    )

    def options(self, view: SublayerView) -> list[Settings]:
        return [{}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        x, y = view.inputs, view.targets
        typical = 1.0 / x.square().mean().sqrt().clamp_min(1e-6)
        trials = [_fit(x, y, float(typical * factor)) for factor in (0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5)]
        _, alpha, gamma, beta = min(trials, key=lambda t: t[0])
        operator = catalogue.build({"name": "dyt", "d_model": view.site.d_model}).to(view.device)
        with torch.no_grad():
            operator.alpha.fill_(alpha)
            operator.weight.copy_(gamma)
            operator.bias.copy_(beta)
        return view.as_replacement(operator)


def _fit(x: Tensor, y: Tensor, alpha: float) -> tuple[float, float, Tensor, Tensor]:
    """Squared error and the per-channel least-squares gamma and beta for one alpha."""
    t = torch.tanh(alpha * x.double())
    t_mean, y_mean = t.mean(0), y.double().mean(0)
    gamma = ((t - t_mean) * (y.double() - y_mean)).mean(0) / (t - t_mean).square().mean(0).clamp_min(1e-12)
    beta = y_mean - gamma * t_mean
    error = float((gamma * t + beta - y.double()).square().sum())
    return error, alpha, gamma.to(x.dtype), beta.to(x.dtype)
