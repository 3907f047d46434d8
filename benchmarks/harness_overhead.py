"""What does `race` add to the training it does, and is its transformer as fast as Llama? Ratios in one run, one thread.

    python benchmarks/harness_overhead.py [--rounds 5]

harness    a trial of `race` (100 steps, its curve and last score left out) against a bare loop: the same model,
           batches drawn in the same way, AdamW, the same schedule and clipping. Goal: at most 1.03
data       the share of a trial that it waits for its examples. Goal: at most 0.02
step       a training step of the reference transformer (softmax attention with RoPE, SwiGLU, RMSNorm) against
           transformers' Llama of the same shape, same weights' sizes, same ids. Goal: at most 1.05
decode     one token after another behind 128 read ones, each with its own cache, both models as above. Goal: at most 1

Interleaved: every round times each once, in turns; a ratio is the median over rounds of the ratio within a round.
Writes results/harness_overhead.csv.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import record
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from layersmith.measuring.environment import environment
from layersmith.model.config import TransformerConfig
from layersmith.model.spec import read_spec
from layersmith.model.task_model import build
from layersmith.model.transformer import TransformerLM
from layersmith.racing import train
from layersmith.racing.tasks import build_task
from layersmith.racing.train import CLIP, Trial, ends_of, rate

STEPS = 100
TRIAL = Trial(
    entrant="overhead",
    task="recall",
    task_settings={},
    spec={"d_model": 64, "n_layers": 2, "mixer": "softmax_attention"},
    optimizer={"name": "adamw"},
    lr=1e-3,
    weight_decay=0.01,
    seed=0,
    steps=STEPS,
    batch=32,
)
#: A Llama whose training step takes tens of milliseconds on one thread.
SHAPE = {"vocab": 1024, "width": 128, "hidden": 384, "layers": 4, "heads": 4, "batch": 8, "tokens": 128}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    ours, theirs = llamas()
    harness, share = ratio(trial, bare, rounds), waiting()
    rows = [
        {"what": "harness", "ratio": harness, "goal": 1.03},
        {"what": "data", "ratio": share, "goal": 0.02},
        {"what": "step", "ratio": ratio(steps(ours), steps(theirs), rounds), "goal": 1.05},
        {"what": "decode", "ratio": ratio(decoding(ours), decoding(theirs), rounds), "goal": 1.0},
    ]
    for row in rows:
        print(f"{row['what']:8} {row['ratio']:.3f}, goal at most {row['goal']}")
    print(record.save_csv("harness_overhead", rows, environment()))


def ratio(one: Callable[[], Any], other: Callable[[], Any], rounds: int) -> float:
    """The median over rounds of the time of one over that of the other, after one of each that warms up."""
    one(), other()
    return statistics.median(seconds(one) / seconds(other) for _ in range(rounds))


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def trial() -> None:
    """What a trial does from step to step, as `race` does it."""
    running = train._Running(TRIAL)
    while running.step < STEPS:
        running.train_on_one_batch()
        running.step += 1


def bare() -> None:
    """The same training, as one would write it by hand."""
    task = build_task(TRIAL.task, TRIAL.task_settings)
    torch.manual_seed(TRIAL.seed)
    model = build(read_spec(TRIAL.spec), ends_of(task)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=TRIAL.lr, betas=(0.9, 0.95), weight_decay=TRIAL.weight_decay)
    draw = torch.Generator().manual_seed(TRIAL.seed)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = TRIAL.lr * rate(step, STEPS)
        batch = task.batch(draw, TRIAL.batch)
        loss = task.loss(model(batch.inputs), batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        loss.item()


def waiting() -> float:
    """Seconds spent in drawing batches, as a share of the whole trial."""
    running, spent = train._Running(TRIAL), 0.0
    draw = running.task.batch

    def timed(*given: Any) -> Any:
        nonlocal spent
        start = time.perf_counter()
        found = draw(*given)
        spent += time.perf_counter() - start
        return found

    running.task.batch = timed  # type: ignore[method-assign]
    start = time.perf_counter()
    for _ in range(STEPS):
        running.train_on_one_batch()
        running.step += 1
    return spent / (time.perf_counter() - start)


def llamas() -> tuple[nn.Module, nn.Module]:
    """Ours, and transformers' Llama of the same shape."""
    s = SHAPE
    norm = {"name": "rms_norm"}
    mixer = {"name": "softmax_attention", "n_heads": s["heads"], "rope_theta": 1e4}
    layer = {"norm": norm, "mixer": mixer, "ffn_norm": norm, "ffn": {"name": "glu", "d_hidden": s["hidden"]}}
    config = TransformerConfig(
        vocab_size=s["vocab"],
        d_model=s["width"],
        layers=s["layers"] * [layer],
        final_norm=norm,
        tie_word_embeddings=False,
    )
    llama = LlamaConfig(
        vocab_size=s["vocab"],
        hidden_size=s["width"],
        intermediate_size=s["hidden"],
        num_hidden_layers=s["layers"],
        num_attention_heads=s["heads"],
        tie_word_embeddings=False,
    )
    models = TransformerLM(config).train(), LlamaForCausalLM(llama).train()
    counts = [sum(p.numel() for p in model.parameters()) for model in models]
    assert counts[0] == counts[1], f"of equal shape, and yet of {counts} parameters"
    return models


def steps(model: nn.Module) -> Callable[[], None]:
    """Five training steps."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(SHAPE["vocab"], (SHAPE["batch"], SHAPE["tokens"]), generator=draw)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def once() -> None:
        model.train()
        for _ in range(5):
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return once


def decoding(model: nn.Module) -> Callable[[], None]:
    """Some tokens, one at a time, behind a text read at once."""
    ids = torch.randint(SHAPE["vocab"], (1, SHAPE["tokens"] + STEPS), generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def once() -> None:
        model.eval()
        cache = model(input_ids=ids[:, : SHAPE["tokens"]], use_cache=True).past_key_values
        for token in ids[:, SHAPE["tokens"] :].split(1, dim=1):
            model(input_ids=token, past_key_values=cache, use_cache=True)

    return once


if __name__ == "__main__":
    main()
