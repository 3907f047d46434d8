"""How large activations and gradients are at every layer of a model, and how that grows with depth.

    a_l = RMS of the residual stream after layer l         g_l = RMS of d loss / d stream there          l = 0 .. L

Two depths compared give slopes: s in "norm of the last feed-forward's gradient ~ L^s", and the same for how far one
step of plain gradient descent moves the logits.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layersmith.contract import Scheme
from layersmith.model import TransformerConfig, TransformerLM
from layersmith.scheme.shared.edits import layers_of


@dataclass(frozen=True)
class Flow:
    """One measurement; lists have an entry for the embedding and one for every layer.

    activations, gradients   root mean squares
    last_ffn                 norm of the loss's gradient in the weights of the last feed-forward
    update                   RMS change of the logits after one step of gradient descent
    cosine                   mean cosine of two tokens of a sequence, after the last layer
    """

    activations: list[float]
    gradients: list[float]
    last_ffn: float
    update: float
    cosine: float


def flow(model: TransformerLM, ids: Tensor, lr: float = 1e-3) -> Flow:
    """Measure on one batch of tokens, each predicting the next. The model is left as it was."""
    was_training = model.training
    model.eval()
    streams: list[Tensor] = []

    def keep(_module: object, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        stream = output if isinstance(output, Tensor) else output[0]
        stream.retain_grad()
        streams.append(stream)

    hooks = [module.register_forward_hook(keep) for module in (model.embed_tokens, *model.layers)]
    trainable = [p for p in model.parameters() if p.requires_grad]
    try:
        output = model(input_ids=ids, labels=ids)
        gradients = torch.autograd.grad(output.loss, [*streams, *trainable], allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    by_weight = {id(p): g for p, g in zip(trainable, gradients[len(streams) :], strict=True) if g is not None}
    last = [by_weight[id(p)] for p in layers_of(model)[-1].ffn.parameters() if id(p) in by_weight]
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p, own in zip([p for p in twin.parameters() if p.requires_grad], trainable, strict=True):
            if id(own) in by_weight:
                p.sub_(lr * by_weight[id(own)])
        moved = twin(input_ids=ids).logits - output.logits
    model.train(was_training)
    return Flow(
        activations=[_rms(s) for s in streams],
        gradients=[_rms(g) if g is not None else 0.0 for g in gradients[: len(streams)]],
        last_ffn=math.sqrt(sum(float(g.double().square().sum()) for g in last)),
        update=_rms(moved),
        cosine=_cosine(streams[-1].detach()),
    )


def growth(shallow: Flow, deep: Flow) -> dict[str, float]:
    """What depth does, in numbers that schemes make promises about.

    activation       a_L / a_0 of the deep model
    gradient         g_0 / g_L of the deep model
    last_ffn_slope   s in last_ffn ~ L^s between the two
    update_slope     s in update ~ L^s between the two
    cosine           of two tokens after the last layer of the deep model
    """
    stretch = math.log((len(deep.activations) - 1) / (len(shallow.activations) - 1))
    return {
        "activation": deep.activations[-1] / max(deep.activations[0], 1e-300),
        "gradient": deep.gradients[0] / max(deep.gradients[-1], 1e-300),
        "last_ffn_slope": math.log(max(deep.last_ffn, 1e-300) / max(shallow.last_ffn, 1e-300)) / stretch,
        "update_slope": math.log(max(deep.update, 1e-300) / max(shallow.update, 1e-300)) / stretch,
        "cosine": deep.cosine,
    }


def plain_model(layers: int, changes: dict[str, Any], d_model: int = 32, vocab: int = 64) -> TransformerLM:
    """A fresh Pre-LN transformer (LayerNorm, softmax attention, ReLU MLP of 4 d), some entries of its layers changed.

    Embeddings start at variance 1 and the output map at 1/d, so that the stream and the logits have size one.
    """
    layer = {
        "norm": {"name": "layer_norm"},
        "mixer": {"name": "softmax_attention", "n_heads": 4},
        "ffn_norm": {"name": "layer_norm"},
        "ffn": {"name": "mlp", "d_hidden": 4 * d_model, "act": "relu"},
    }
    config = TransformerConfig(
        vocab_size=vocab,
        d_model=d_model,
        layers=[{**layer, **changes} for _ in range(layers)],
        final_norm={"name": "layer_norm"},
        tie_word_embeddings=False,
    )
    model = TransformerLM(config)
    torch.nn.init.normal_(model.embed_tokens.weight)
    torch.nn.init.normal_(model.lm_head.weight, std=d_model**-0.5)
    return model


def measured_growth(
    scheme: Scheme | None,
    changes: dict[str, Any],
    depths: tuple[int, int] = (6, 36),
    widths: tuple[int, int] = (128, 512),
    seeds: int = 2,
) -> dict[str, float]:
    """`growth` between two depths of plain models after the scheme, and how an optimizer's step grows; seeds averaged.

    step_by_depth    s in "RMS change of the logits after one sign step ~ L^s", with the scheme's learning rates; the
    step_by_width    first step of Adam is a sign step
    """
    logs: dict[str, float] = {}
    for seed in range(seeds):
        flows, steps = [], []
        for depth, width in ((depths[0], 32), (depths[1], 32), (2, widths[0]), (2, widths[1])):
            torch.manual_seed(seed)
            model = plain_model(depth, changes, d_model=width)
            if scheme is not None:
                scheme.apply(model)
            ids = torch.randint(model.config.vocab_size, (4, 16))
            if depth in depths:
                flows.append(flow(model, ids))
            steps.append(sign_step(model, ids, scheme))
        found = growth(*flows)
        logs |= {k: logs.get(k, 0.0) + math.log(max(found[k], 1e-300)) / seeds for k in ("activation", "gradient")}
        found["step_by_depth"] = math.log(steps[1] / steps[0]) / math.log(depths[1] / depths[0])
        found["step_by_width"] = math.log(steps[3] / steps[2]) / math.log(widths[1] / widths[0])
        slopes = ("last_ffn_slope", "update_slope", "cosine", "step_by_depth", "step_by_width")
        logs |= {k: logs.get(k, 0.0) + found[k] / seeds for k in slopes}
    return logs | {k: math.exp(logs[k]) for k in ("activation", "gradient")}


def sign_step(model: TransformerLM, ids: Tensor, scheme: Scheme | None, lr: float = 1e-5) -> float:
    """RMS change of the logits when every weight moves by its learning rate against the sign of its gradient."""
    groups = (scheme or Scheme()).learning_rates(model, lr)
    old = [p.detach().clone() for p in model.parameters()]
    output = model(input_ids=ids, labels=ids)
    trainable = [(p, group["lr"]) for group in groups for p in group["params"]]
    gradients = torch.autograd.grad(output.loss, [p for p, _ in trainable], allow_unused=True)
    with torch.no_grad():
        for (p, rate), gradient in zip(trainable, gradients, strict=True):
            if gradient is not None:
                p.sub_(rate * gradient.sign())
        moved = _rms(model(input_ids=ids).logits - output.logits)
        for p, value in zip(model.parameters(), old, strict=True):
            p.copy_(value)
    return moved


def _rms(x: Tensor) -> float:
    return math.sqrt(float(x.detach().double().square().mean()))


def _cosine(x: Tensor) -> float:
    """Mean cosine over all pairs of different tokens of each sequence in x (B, T, D)."""
    unit = torch.nn.functional.normalize(x.double(), dim=-1)
    tokens = x.shape[1]
    return float(((unit @ unit.mT).sum((1, 2)) - tokens).mean() / (tokens * (tokens - 1)))
