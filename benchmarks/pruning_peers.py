"""How does a searched mix compare with what pip-installable peers make of the same model, at equal compression?

    python benchmarks/pruning_peers.py [MODEL] [--work out/benchmarks/pruning_peers-MODEL] [--rounds 60]

Every row removes half of the weights of the model's blocks, without any healing:

    llm-compressor   Wanda and SparseGPT, 50% unstructured and 2:4: half of each matrix becomes zeros
    torch-pruning    feed-forward channels, by weight magnitude and by Taylor score, until half of the block weights are
                     gone. Attention stays whole: its heads cannot be pruned in models with grouped key-value heads.
    layersmith       `refit` with the parameter budget that equals; methods and layers are its own choice

All calibrate on the same windows; KL, agreement and latency are measured on the same held-out windows and in the same
interleaved rounds. The peers' weights stand in a plain copy of the model, so that no hook of theirs is timed. Zeros in
a dense matrix do not make a CPU faster; the measured latency says so.

Run it in an environment of its own with layersmith, llmcompressor and torch-pruning (see README.md). A peer that is not
installed or fails gets a row that says why. Writes results/pruning_peers-MODEL.csv.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from record import save_csv
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

import layersmith
from layersmith.measuring.latency import model_latency, ratio
from layersmith.measuring.quality import quality
from layersmith.measuring.shape import parse_shape
from layersmith.refitting.calibrate.batches import Batch, Sizes, prepare

HALF = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket", help="a Llama-like model: a folder, a Hub id, or pocket")
    parser.add_argument(
        "--work", type=Path, help="folder of layersmith's run (default: out/benchmarks/pruning_peers-MODEL)"
    )
    parser.add_argument("--at", default="prefill=1x512", help="the shape latency is measured at")
    parser.add_argument("--effort", type=float, default=1.0, help="of layersmith's run, as for `layersmith refit`")
    parser.add_argument("--rounds", type=int, default=60, help="timings of each model")
    arguments = parser.parse_args()
    name = Path(arguments.model).name

    original, tokenizer = layersmith.load(arguments.model)
    original.requires_grad_(False)
    original.config.use_cache = False  # torch-pruning traces tensors only
    batches = prepare(original, tokenizer, "stdlib", Sizes(heal=0), seed=0)
    weights = sum(m.weight.numel() for m in block_linears(original))
    total = sum(p.numel() for p in original.parameters())

    def ours() -> nn.Module:
        out = arguments.work or Path("out/benchmarks") / f"pruning_peers-{name}"
        budget = {"params": 1 - HALF * weights / total}
        options = {"at": arguments.at, "heal_tokens": 0, "effort": arguments.effort}
        layersmith.refit(arguments.model, budget=budget, out=out, **options)
        return layersmith.load(out / "model")[0]

    makers: dict[str, tuple[str, Callable[[], nn.Module]]] = {}
    makers[f"layersmith refit, effort {arguments.effort:g}"] = ("layersmith", ours)
    for method in ("Wanda", "SparseGPT"):
        for label, mask in (("50%", "0:0"), ("2:4", "2:4")):
            make = partial(sparse, original, tokenizer, batches.fit, method, mask)
            makers[f"llm-compressor {method} {label}"] = ("llmcompressor", make)
    for score in ("magnitude", "Taylor"):
        make = partial(channels, original, batches.fit, score, HALF * weights)
        makers[f"torch-pruning {score}"] = ("torch-pruning", make)

    models, rows = {"original": original}, []
    for label, (package, make) in makers.items():
        row = {"model": name, "at": arguments.at, "variant": label, "skipped": ""}
        try:
            model = make().eval().requires_grad_(False)
            row |= {"version": version(package), "weights_removed": 1 - nonzero(model) / nonzero(original)}
            models[label] = model
        except Exception as error:  # a peer that is missing or fails is a finding: it gets its row, and the run goes on
            row["skipped"] = f"{type(error).__name__}: {error}"
            print(f"{label:<32} skipped: {row['skipped']}")
        rows.append(row)
    timings = model_latency(models, parse_shape(arguments.at), rounds=arguments.rounds)
    for row in rows:
        label = row["variant"]
        if label in models:
            found = quality(models[label], batches.report, against=original)
            row |= {"divergence": found.divergence, "agreement": found.agreement, "perplexity": found.perplexity}
            row |= {"latency_ratio": ratio(timings, label, "original"), "latency_ms": timings[label].median * 1e3}
            row["params"] = sum(p.numel() for p in models[label].parameters())
            told = f"KL {found.divergence:.4f}  {row['latency_ratio']:.3f}x  -{row['weights_removed']:.1%} weights"
            print(f"{label:<32} {told}")
    print(save_csv(f"pruning_peers-{name}", rows))


def block_linears(model: nn.Module) -> list[nn.Linear]:
    """The matrices of the blocks; embeddings and the output head are not compressed by any of the peers."""
    return [m for block in model.model.layers for m in block.modules() if isinstance(m, nn.Linear)]


def nonzero(model: nn.Module) -> int:
    """Parameters that are not zero; embeddings and head (their first dimension is the vocabulary) left out."""
    inner = [p for p in model.parameters() if p.shape[:1] != (model.config.vocab_size,)]
    return sum(int(p.count_nonzero()) for p in inner)


def sparse(original: nn.Module, tokenizer: Any, batches: list[Batch], method: str, mask: str) -> nn.Module:
    """llm-compressor's one-shot pruning; its result's weights in a plain copy of the original."""
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier

    modifier = {"Wanda": WandaPruningModifier, "SparseGPT": SparseGPTModifier}[method]
    blocks = [type(original.model.layers[0]).__name__]
    with tempfile.TemporaryDirectory() as folder:  # it reads the config from where the model was loaded
        unquantized(original).save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        recipe = modifier(sparsity=HALF, mask_structure=mask, targets=blocks)
        oneshot(model=model, tokenizer=tokenizer, dataset=DataLoader(batches, batch_size=None), recipe=[recipe])
    plain = copy.deepcopy(original)
    plain.load_state_dict(model.state_dict())
    return plain


def unquantized(original: nn.Module) -> nn.Module:
    """The same model without a memory of the .gguf file it was read from, which transformers would refuse to save."""
    config = copy.deepcopy(original.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = type(original)(config)
    model.load_state_dict(original.state_dict())
    return model


def channels(original: nn.Module, batches: list[Batch], score: str, remove: float) -> nn.Module:
    """torch-pruning of feed-forward channels, the same share in every block, until `remove` weights are gone."""
    import torch_pruning

    model = copy.deepcopy(original).requires_grad_(True)
    importance = {
        "magnitude": torch_pruning.importance.GroupMagnitudeImportance,
        "Taylor": torch_pruning.importance.GroupTaylorImportance,
    }[score]()
    if score == "Taylor":
        for batch in batches:
            model(**batch, labels=batch["input_ids"]).loss.backward()
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Embedding)]
    inner = {id(m) for block in model.model.layers for m in (block.mlp.gate_proj, block.mlp.up_proj)}
    feed_forward = sum(p.numel() for block in model.model.layers for p in block.mlp.parameters())
    torch_pruning.pruner.BasePruner(
        model,
        batches[0]["input_ids"][:1, :16],
        importance=importance,
        pruning_ratio=remove / feed_forward,
        ignored_layers=[m for m in layers if id(m) not in inner],
        output_transform=lambda output: output.logits,
    ).step()
    return model


if __name__ == "__main__":
    main()
