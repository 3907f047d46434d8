"""The catalogue in one model: many mixers and feed-forwards and a loop, from a short spec to text and back."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from layersmith.data import text
from layersmith.model import TransformerLM
from layersmith.model.spec import expand, read_spec
from tests import forked

#: Six mixers, three feed-forwards, and an arrangement that is looped.
SPEC: dict[str, Any] = {
    "d_model": 32,
    "ffn": {"name": "glu", "d_hidden": 48},
    "layers": [
        {},
        {"mixer": "linear_attention", "ffn": {"name": "mlp", "d_hidden": 64}},
        {"block": {"name": "looped", "times": 2, "inject": True, "layers": [{"mixer": "deltanet"}, {"mixer": "mesa"}]}},
        {"mixer": "partial_attention", "ffn": {"name": "sigma_moe", "d_expert": 16, "n_experts": 4, "k": 2}},
        {"mixer": {"name": "softmax_attention", "window": 8}, "block": "parallel"},
    ],
}
STEPS, TOKENS, BATCH = 200, 32, 8


def generated(folder: str, prompt: list[int]) -> None:
    """Print what the saved model writes, with its cache and without."""
    from transformers import AutoModelForCausalLM

    import layersmith.model  # noqa: F401 - makes the Auto classes know it

    model, ids = AutoModelForCausalLM.from_pretrained(folder).eval(), torch.tensor([prompt])
    settings = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0}
    written = [model.generate(ids, use_cache=cache, **settings)[0].tolist() for cache in (True, False)]
    sys.stdout.write(f"{json.dumps(written)}\n")


def test_it_trains_saves_reloads_and_generates_with_its_cache_as_without(tmp_path: Any) -> None:
    written = "".join(text.read("stdlib", "train")[:4]).encode()[:60_000]
    source = torch.frombuffer(bytearray(written), dtype=torch.uint8).long()
    torch.manual_seed(0)
    model = TransformerLM(expand(read_spec(SPEC), 256)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(STEPS):
        starts = torch.randint(len(source) - TOKENS, (BATCH, 1))
        ids = source[starts + torch.arange(TOKENS)]
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < 0.75 * losses[0], losses[::20]

    model.eval().save_pretrained(tmp_path)
    prompt = source[:20].tolist()
    status, said = forked.run(generated, str(tmp_path), prompt)
    assert status == 0, said
    with_cache, without = json.loads(said.splitlines()[-1])
    assert with_cache == without
    here = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False, pad_token_id=0)[0].tolist()
    assert with_cache == here
    assert len(set(here[20:])) > 1
