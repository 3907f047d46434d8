"""Do the methods that save time, and nothing that can be counted, save any on this machine?

    layersmith compile && python benchmarks/latency_alone.py [--rounds 40]

They change in how many calls, or in which of torch's kernels, the same work is done; so there is nothing to count, and
each has to be faster than the original somewhere. Two models with random weights, four layers each: a Llama of
SmolLM2-135M's widths and a GPT-2. The method stands at every site where it applies, and is timed in turns with the
original, in decode and in prefill. Writes results/latency_alone.csv; tests/refitting/test_method_facts.py holds every
such method to a ratio below 1 at one shape at least.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from record import save_csv
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from layersmith.anatomy import Site, find_sites
from layersmith.anatomy.edit import Replacement
from layersmith.anatomy.head import with_head
from layersmith.measuring.environment import environment
from layersmith.measuring.latency import latency, ratio
from layersmith.measuring.shape import parse_shape
from layersmith.refitting import methods
from layersmith.refitting.search.variants import ORIGINAL, variant_steps
from layersmith.refitting.view import Call, SublayerView

SHAPES = ("decode=1x128", "prefill=1x128")
#: Measured as well: norms that are put in for the sake of time, and say here that they save none.
ALSO = ("rms_norm", "dyt", "prep_bn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    conditions, rows = environment(), []
    for name, model in models().items():
        replaced = {method: replacement(model, method) for method in alone()}
        variants = {method: found for method, found in replaced.items() if found}
        for at in SHAPES:
            timings = latency(variant_steps(model, variants, parse_shape(at)), rounds=arguments.rounds, warmup=2)
            ratios = {method: ratio(timings, method, ORIGINAL) for method in variants}
            original = timings[ORIGINAL].median * 1e3
            for method, found in variants.items():
                row = {"method": method, "model": name, "at": at, "sites": len(found), "latency_ratio": ratios[method]}
                rows.append(row | {"original_ms": original, "rounds": arguments.rounds})
                print(f"{name} {at:<13} {method:<16} {ratios[method]:.3f} of {original:.2f} ms", flush=True)
    print(save_csv("latency_alone", rows, conditions))


def alone() -> list[str]:
    """The methods that say they save latency, and neither FLOPs nor bytes; and `ALSO`."""
    saves = {name: set(methods.get(name).saves) for name in methods.METHODS}
    said = [name for name, stated in saves.items() if "latency" in stated and not stated & {"flops", "bytes"}]
    return [*said, *ALSO]


def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "num_hidden_layers": 4}
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=4096, hidden_size=576, intermediate_size=1536, **heads))
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=4096, n_layer=4))
    return {name: model.eval().requires_grad_(False) for name, model in (("Llama", llama), ("GPT-2", gpt2))}


@torch.no_grad()
def replacement(model: nn.Module, name: str) -> Replacement:
    """The method's at every site where it applies, with the last of its settings."""
    anatomy = with_head(model, find_sites(model))
    method, found = methods.get(name), []
    for site in anatomy:
        if site.kind in method.kinds and not site.locked:
            view = SublayerView(model, anatomy, site, [call(model, site)], [])
            if method.unsupported_reason(view) is None:
                found += view.as_stored(method.build(view, method.options(view)[-1]))
    return found


def call(model: nn.Module, site: Site) -> Call:
    """What a norm reads and writes, of noise; the others are not asked for more than a width."""
    x = torch.randn(1, 64, site.d_model)
    y: Any = model.get_submodule(site.modules[0])(x) if site.kind == "norm" else x
    return Call((), {}, x, y, None)


if __name__ == "__main__":
    main()
