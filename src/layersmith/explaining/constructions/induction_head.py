"""A language model of two layers whose only rule is: what came after this token before will come again.

Residual stream: (now, before, next), one-hot each. Ids 0 ... V-1 are symbols, V begins every text.

    layer 1   previous-token head: q and k are constants that rope turns, with q one step behind, so that the score of
              s for t is sum_i cos((t - 1 - s) theta_i), largest at s = t - 1; it copies `now` into `before`
    layer 2   induction head: q = now, k = before, v = now; it finds every token that came after this symbol and
              copies it into `next`
    logits    gain * next: the share each symbol has among the earlier successors of this one

It is a `TransformerLM`, so every tool that takes a language model takes it; `EDGES` is its circuit.

Papers: Olsson et al. 2022, "In-context Learning and Induction Heads", arXiv 2209.11895 (the two heads); von Oswald et
al. 2022, arXiv 2212.07677 reads them as a step of gradient descent.
Differs from the papers: heads found in trained models are written down here, with rope for the previous token.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.wiring import Stream, finished, wire

THETA, TURNING = 10_000.0, 64
#: Who reads whom: (writer, reader, what of it).
EDGES = (
    ("embed", "layers.0.attn", "v"),
    ("embed", "layers.1.attn", "q"),
    ("embed", "layers.1.attn", "v"),
    ("layers.0.attn", "layers.1.attn", "k"),
    ("layers.1.attn", "logits", "in"),
)


class InductionHead(Construction):
    name = "induction_head"
    summary = "a previous-token head and an induction head, as a language model that continues what it has seen"
    papers = ("2212.07677",)
    settings = {  # noqa: RUF012
        "symbols": Setting(16, 2, 1000, "the number of symbols"),
        "sharpness": Setting(40.0, 0.01, 1000.0, "the factor on the scores of both heads"),
        "gain": Setting(20.0, 0.1, 1000.0, "the factor on the logits"),
        "tokens": Setting(128, 8, 4096, "the length of the texts it is tried on"),
        "seed": Setting(0, 0, 2**31, "the seed of the texts"),
    }

    def build(self, settings: Settings) -> nn.Module:
        from layersmith.model.config import TransformerConfig  # brings transformers, which a listing does not need
        from layersmith.model.transformer import TransformerLM

        vocab, sharpness = settings["symbols"] + 1, settings["sharpness"]
        at = Stream(now=vocab, before=vocab, next=vocab)
        size = max(TURNING, vocab + vocab % 2)
        previous = {"head_dim": size, "rope_theta": THETA, "bias": True}
        config = TransformerConfig(
            vocab_size=vocab,
            d_model=at.width,
            layers=[_layer({**previous, "scale": sharpness}), _layer({"head_dim": vocab, "scale": sharpness})],
            tie_word_embeddings=False,
            bos_token_id=settings["symbols"],
        )
        model = TransformerLM(config).double()
        with torch.no_grad():
            model.embed_tokens.weight.zero_()[:, at.now] = torch.eye(vocab).double()
        every, turned = slice(0, vocab), THETA ** (-torch.arange(0, size, 2).double() / size)
        mixers: list[Any] = [layer.get_submodule("mixer") for layer in model.layers]
        first, second = mixers
        wire(first.q, bias=dict(enumerate(torch.cat((turned.cos(), -turned.sin())).tolist())))
        wire(first.k, bias=dict.fromkeys(range(size // 2), 1.0))
        wire(first.v, (every, at.now, 1.0))
        wire(first.o, (at.before, every, 1.0))
        wire(second.q, (every, at.now, 1.0))
        wire(second.k, (every, at.before, 1.0))
        wire(second.v, (every, at.now, 1.0))
        wire(second.o, (at.next, every, 1.0))
        wire(model.lm_head, (every, at.next, settings["gain"]))
        return finished(model)

    def claims(self, settings: Settings) -> list[Claim]:
        symbols, draw = settings["symbols"], random.Random(settings["seed"])
        text = [symbols, *(draw.randrange(symbols) for _ in range(settings["tokens"] - 1))]
        order = draw.sample(range(symbols), symbols)
        pairs = [draw.randrange(2) for _ in range(settings["tokens"] // 2)]
        return [
            Claim(
                "logits are gain times the share of each symbol among earlier successors",
                f"largest difference from counting, random text of {settings['tokens']}",
                lambda m: _off(m, text, settings["gain"]),
                most=1e-8,
            ),
            Claim(
                "it repeats a list of different symbols it has seen once",
                f"errors on {symbols - 1} symbols",
                lambda m: _wrong(m, [symbols, *order, *order], symbols - 1),
                most=0,
            ),
            Claim(
                "it looks at one symbol: of a list of two symbols it knows the shares alone",
                f"share of errors on {len(pairs) - 1} symbols seen once",
                lambda m: _wrong(m, [symbols, *pairs, *pairs], len(pairs) - 1) / (len(pairs) - 1),
                least=0.2,
                limit=True,
            ),
            Claim(
                "with the usual factor head_dim^-1/2 the heads do not single out a token",
                "largest difference from counting",
                lambda m: _off(self.build({**settings, "sharpness": TURNING**-0.5}), text, settings["gain"]),
                least=0.1,
                limit=True,
            ),
        ]


def _layer(mixer: dict[str, object]) -> dict[str, object]:
    attention = {"name": "softmax_attention", "n_heads": 1, **mixer}
    return {"norm": None, "mixer": attention, "ffn_norm": None, "ffn": {"name": "zero"}}


def _off(model: Any, text: list[int], gain: float) -> float:
    """How far logits are from gain times the shares, where the symbol was seen before."""
    logits = model(torch.tensor([text])).logits[0].tolist()
    worst = 0.0
    for t in range(len(text)):
        after = [text[s] for s in range(1, t + 1) if text[s - 1] == text[t]]
        for symbol in range(len(logits[t])) if after else []:
            worst = max(worst, abs(logits[t][symbol] - gain * after.count(symbol) / len(after)))
    return worst


def _wrong(model: Any, text: list[int], last: int) -> int:
    """How many of the last symbols are not the most likely ones after those before them."""
    likely = model(torch.tensor([text[:-1]])).logits[0].argmax(-1).tolist()
    return sum(said != true for said, true in zip(likely[-last:], text[-last:], strict=True))
