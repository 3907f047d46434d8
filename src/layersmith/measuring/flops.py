"""FLOPs: 2 per multiply-add of matrix products, convolutions and attention, counted while a step really runs.

A part that skips work is credited with it. Attention counts all pairs of tokens, masked ones included. torch's own
counter takes some products for nothing (attention on a CPU, the grouped products of experts, integer matrices); their
formulas are here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers.integrations.moe  # noqa: F401  registers the product of experts that torch cannot do everywhere
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

Sizes = torch.Size | tuple[int, ...]


def count_flops(step: Callable[[], object]) -> int:
    """FLOPs of one call."""
    with _counting() as counter:
        step()
    return int(counter.get_total_flops())


def count_flops_by_module(model: nn.Module, step: Callable[[], object]) -> dict[str, int]:
    """FLOPs of one call that runs `model`, by module path; all of them under ""."""
    with _counting() as counter:
        step()
    root = type(model).__name__
    counts = {
        name.removeprefix(root).removeprefix("."): int(sum(by_operation.values()))
        for name, by_operation in counter.get_flop_counts().items()
        if name == root or name.startswith(root + ".")
    }
    return counts | {"": int(counter.get_total_flops())}


@contextmanager
def _counting() -> Iterator[FlopCounterMode]:
    # nn.TransformerEncoder's fused kernel bypasses the sublayers, so it is switched off for this pass.
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_formulas()) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _formulas() -> dict[Any, Callable[..., int]]:
    """Operations that torch's counter does not know. Kernels of our own are registered where they are defined."""
    aten = torch.ops.aten
    named: dict[tuple[Any, str], Callable[..., int]] = {
        (aten, "_scaled_dot_product_flash_attention_for_cpu"): _attention,
        (aten, "_grouped_mm"): _grouped,
        (aten, "_scaled_grouped_mm"): _grouped,
        (torch.ops.transformers, "grouped_mm_fallback"): _grouped,
        (aten, "_int_mm"): _product,
        (aten, "_weight_int8pack_mm"): _product,
        (aten, "_weight_int4pack_mm"): _product,
        (aten, "_weight_int4pack_mm_for_cpu"): _product,
        (aten, "mv"): _product,
        (aten, "dot"): _product,
        (aten, "vdot"): _product,
        (aten, "addmv"): _added_product,
        (aten, "_addmm_activation"): _added_product,
        (aten, "addbmm"): _added_batches,
    }
    return {getattr(where, name): formula for (where, name), formula in named.items() if hasattr(where, name)}


def _attention(query: Sizes, key: Sizes, value: Sizes, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _product(a: Sizes, *_: Any, out_shape: Sizes, **__: Any) -> int:
    """a (..., K) times something: K multiply-adds for each number that comes out."""
    return 2 * a[-1] * math.prod(out_shape)


def _added_product(_: Sizes, a: Sizes, *__: Any, out_shape: Sizes, **___: Any) -> int:
    return 2 * a[-1] * math.prod(out_shape)


def _added_batches(_: Sizes, a: Sizes, *__: Any, out_shape: Sizes, **___: Any) -> int:
    return 2 * a[0] * a[-1] * math.prod(out_shape)


def _grouped(a: Sizes, b: Sizes, *_: Any, **__: Any) -> int:
    """Rows (or columns) in groups, each group times its own matrix: a row meets one matrix, however many there are."""
    groups = a[0] if len(a) == len(b) == 3 else 1
    return 2 * groups * a[-2] * a[-1] * b[-1]
