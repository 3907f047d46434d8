"""How fast is a sparse dictionary, and what does skipping its zeros gain?

    layersmith compile && python benchmarks/dictionary.py [--tokens 1024] [--rounds 5] [--saelens PYTHON]

A top-k transcoder with 16 features a channel at the width of SmolLM2-135M's feed-forward (576 -> 9216 -> 576, k = 32),
untrained, on random inputs. Interleaved in one run: a forward pass without gradients, and one step of training without
dead features; "sparse" is the part itself, "dense" the same codes scattered into all 9216 places and multiplied with
the whole decoder, all of it under autograd in training. The optimiser and the decoder's norms are the same in both.

With the Python of an environment that has sae-lens (see official/saelens.py), a step of its top-k autoencoder takes
turns with ours, three times each: in processes of their own, so a turn lasts seconds and the machine's mood may change
between two. The least and the most ratio of a turn say by how much. Speed only: the error that either reaches is not
measured.

Writes results/dictionary.csv: tokens per second, and the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from record import save_csv
from torch import Tensor

from layersmith.explaining.dictionaries.recipe import Recipe
from layersmith.explaining.dictionaries.train import Training, shuffled
from layersmith.ffn.sparse_dictionary import SparseDictionary
from layersmith.measuring.environment import environment
from layersmith.measuring.latency import Step, Timing, latency, ratio

D, EXPANSION, K = 576, 16, 32
#: How often our training and that of sae-lens take turns.
TURNS = 3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--saelens", help="the Python of an environment with sae-lens")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows = [measured("forward", *forwards(arguments.tokens), arguments.tokens, rounds=arguments.rounds)]
    rows.append(measured("training step", *trainings(arguments.tokens), arguments.tokens, rounds=arguments.rounds))
    if arguments.saelens:
        rows.append(beside_saelens(arguments.saelens, arguments.tokens, arguments.rounds))
    for row in rows:
        print(row)
    conditions = environment()
    print(conditions)
    save_csv("dictionary", rows, conditions)


def measured(what: str, sparse: Step, dense: Step, tokens: int, rounds: int) -> dict[str, Any]:
    timings: dict[str, Timing] = latency({"sparse": sparse, "dense": dense}, rounds=rounds, warmup=2)
    return {
        "pass": what,
        "shape": f"{D}x{EXPANSION * D}x{D}",
        "k": K,
        "tokens": tokens,
        "sparse_tokens_per_s": round(tokens / timings["sparse"].median),
        "dense_tokens_per_s": round(tokens / timings["dense"].median),
        "sparse_against_dense": round(ratio(timings, "sparse", "dense"), 3),
    }


def beside_saelens(python: str, tokens: int, rounds: int) -> dict[str, Any]:
    x = torch.randn(4 * tokens, D)
    recipe = Recipe(kind="sae", expansion=EXPANSION, k=K, steps=10**6, batch=tokens, dead_after=10**9)
    training = Training(shuffled(x, x, tokens, seed=0), recipe)
    pairs, version = [], ""
    for _ in range(TURNS):
        ours = tokens / latency({"ours": training.step}, rounds=rounds, warmup=2)["ours"].median
        theirs, version = saelens_rate(python, tokens, rounds)
        pairs.append((ours, theirs))
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    return {
        "pass": f"training step of an autoencoder, beside sae-lens {version}",
        "shape": f"{D}x{EXPANSION * D}x{D}",
        "k": K,
        "tokens": tokens,
        "sparse_tokens_per_s": round(statistics.median(ours for ours, _ in pairs)),
        "saelens_tokens_per_s": round(statistics.median(theirs for _, theirs in pairs)),
        "times_saelens": round(statistics.median(ratios), 2),
        "least_times": round(ratios[0], 2),
        "most_times": round(ratios[-1], 2),
    }


def saelens_rate(python: str, tokens: int, rounds: int) -> tuple[float, str]:
    script = Path(__file__).with_name("dictionary_theirs.py")
    sizes = [str(size) for size in (D, EXPANSION * D, K, tokens, rounds)]
    done = subprocess.run([python, script, *sizes], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    theirs = json.loads(done.stdout.splitlines()[-1])
    if theirs["threads"] != torch.get_num_threads():
        raise SystemExit(f"sae-lens ran with {theirs['threads']} threads, layersmith with {torch.get_num_threads()}.")
    return theirs["tokens_per_s"], theirs["version"]


class Dense(SparseDictionary):
    """The same codes, found in the same way, multiplied with every row of the decoder."""

    name = ""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.read(x)
        pre = self.pre(rows)
        values, chosen = pre.topk(self.k, sorted=False)
        codes = torch.zeros_like(pre).scatter(1, chosen, F.relu(values))
        return self.written(codes @ self.decoder, rows)


def forwards(tokens: int) -> tuple[Step, Step]:
    sparse, dense = (part(D, EXPANSION * D, K).eval().requires_grad_(False) for part in (SparseDictionary, Dense))
    dense.load_state_dict(sparse.state_dict())
    x = torch.randn(tokens, D)
    torch.testing.assert_close(sparse(x), dense(x), rtol=1e-3, atol=1e-4)
    return Step(run=lambda: sparse(x)), Step(run=lambda: dense(x))


def trainings(tokens: int) -> tuple[Step, Step]:
    x = torch.randn(4 * tokens, D)
    stream = shuffled(x, torch.tanh(x), tokens, seed=0)
    recipe = Recipe(expansion=EXPANSION, k=K, steps=10**6, batch=tokens, dead_after=10**9)
    sparse, plain = Training(stream, recipe), Training(stream, recipe)
    dense = Dense(D, EXPANSION * D, K)
    dense.load_state_dict(plain.dictionary.state_dict())
    plain.dictionary = dense.train()
    plain.optimizer = torch.optim.Adam(dense.parameters(), lr=recipe.lr, fused=True)

    @torch.enable_grad()
    def step() -> None:
        inputs, outputs = stream(plain.done)
        loss = (dense(inputs) - outputs).square().sum(-1).mean() / plain.variance
        plain.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        plain._apply()
        plain.done += 1

    return Step(run=sparse.step), Step(run=step)


if __name__ == "__main__":
    main()
