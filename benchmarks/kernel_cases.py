"""What `kernels_cpu.py` times: every compiled CPU operation beside its reference, at shapes it is for.

Widths are those of SmolLM2-135M (576, 1536, nine heads of 64, three of keys and values), unless an operation is about
large tables. A reference is the part's own lines, which serve where no kernel does; where those hide behind a custom
operator, which torch.compile cannot look into, they are written out here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.block.series import Series
from layersmith.ffn.fff import FFF
from layersmith.ffn.gr_kan import GRKAN
from layersmith.ffn.mglu import MGLU
from layersmith.ffn.poly_norm import PolyNorm
from layersmith.ffn.poly_relu import PolyReLU
from layersmith.ffn.shared.tree import descend
from layersmith.kernels import cached, causal, chosen, gated, gather, int8, one_row
from layersmith.linear.quantized import QuantizedLinear, rounded_inputs
from layersmith.mixer.shared.turning import turn, turning_table
from layersmith.norm.dyt import DyT
from layersmith.norm.rms_norm import RMSNorm

D, HIDDEN, HEADS, KV_HEADS, HEAD = 576, 1536, 9, 3, 64

Function = Callable[..., Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """One operation at one shape.

    operators  names in kernels/*/*.cpp, separated by spaces: the forward one, then that of its gradients
    at         the shape in words
    inputs     of kernel and reference alike
    trained    tensors whose gradients are timed too; () where the kernel is for inference
    """

    operators: str
    at: str
    kernel: Function
    reference: Function
    inputs: tuple[Tensor, ...]
    trained: tuple[Tensor, ...] = ()


def cases() -> list[Case]:
    torch.manual_seed(0)
    return [*activations(), *norms(), *few_rows(), *tables(), *trees(), *linear_maps(), *attention(), *layers()]


def activations() -> list[Case]:
    rational, poly_norm, poly_relu = GRKAN(D, HIDDEN).act_hidden, PolyNorm(D, HIDDEN), PolyReLU(D, HIDDEN)
    found = []
    for operators, function, part in (
        ("rational rational_backward", rational, rational),
        ("poly_norm poly_norm_backward", poly_norm.activation, poly_norm),
        ("poly_relu poly_relu_backward", poly_relu.activation, poly_relu),
    ):
        h = torch.randn(1, 512, HIDDEN, requires_grad=True)
        coefficients = [parameter for name, parameter in part.named_parameters() if "." not in name]
        found.append(Case(operators, "512 x 1536", function, function, (h,), (h, *coefficients)))
    for tokens in (1, 512):
        gate_up = torch.randn(1, tokens, 2 * HIDDEN)
        found.append(Case("silu_gate", f"{tokens} x 1536", gated.silu_gate, _silu_gate, (gate_up,)))
    return found


def _silu_gate(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def norms() -> list[Case]:
    dyt, rms = DyT(D).eval(), RMSNorm(D).eval()
    x = torch.randn(1, 512, D, requires_grad=True)
    found = [Case("dyt dyt_backward", "512 x 576", dyt, dyt, (x,), (x, *dyt.parameters()))]
    return found + [Case("rms_norm", f"{n} x 576", rms, rms, (torch.randn(1, n, D),)) for n in (1, 512)]


def few_rows() -> list[Case]:
    """A few tokens that use a few rows of wide matrices."""
    x, up, down = torch.randn(1, D), torch.randn(HIDDEN, D), torch.randn(HIDDEN, D)
    hidden, index = torch.randn(1, HIDDEN // 8), torch.randperm(HIDDEN)[None, : HIDDEN // 8].contiguous()
    mglu = MGLU(D, HIDDEN, packed=True)
    experts, counts = torch.randn(8, HIDDEN // 8, D), [3, 0, 5, 2, 1, 4, 0, 1]
    rows = torch.randn(sum(counts), D)

    def each_expert(rows: Tensor, experts: Tensor, _: Tensor) -> Tensor:
        pairs = zip(rows.split(counts), experts, strict=True)
        return torch.cat([piece @ expert.T for piece, expert in pairs if len(piece)])

    def gated_rows(x: Tensor, hidden: Tensor, index: Tensor, up: Tensor, down: Tensor) -> Tensor:
        inner = (F.embedding(index, up) @ x[..., None])[..., 0]
        return ((hidden * inner)[:, None] @ F.embedding(index, down))[:, 0]

    def plain_rows(x: Tensor, hidden: Tensor, index: Tensor, down: Tensor) -> Tensor:
        return (hidden[:, None] @ F.embedding(index, down))[:, 0]

    def plain_kernel(x: Tensor, hidden: Tensor, index: Tensor, down: Tensor) -> Tensor:
        return chosen.chosen_rows(x, hidden, index, None, down)

    sorted_pairs = (rows, experts, torch.tensor(counts))
    return [
        Case("masked_products", "1 x 576 by 1536 x 576", mglu.products, mglu.products, (x,)),
        Case("chosen_rows", "192 of 1536, gated", chosen.chosen_rows, gated_rows, (x, hidden, index, up, down)),
        Case("chosen_rows", "192 of 1536", plain_kernel, plain_rows, (x, hidden, index, down)),
        Case("grouped_linear_cpu", "16 pairs, 8 of 192 x 576", chosen.grouped_linear, each_expert, sorted_pairs),
    ]


def tables() -> list[Case]:
    """64 tokens that read 128 of 16,384 rows each, as PEER does; and the search for these rows by product keys."""
    x, table, weight = torch.randn(64, D), torch.randn(16_384, D), torch.randn(64, 128)
    index, scores = torch.randint(len(table), (64, 128)), torch.randn(8, 2, 64, 128)

    def dot(x: Tensor, table: Tensor, index: Tensor) -> Tensor:
        return (table[index] * x[:, None]).sum(-1)

    def scatter(weight: Tensor, x: Tensor, index: Tensor) -> Tensor:
        pairs = (weight[..., None] * x[:, None]).flatten(0, 1)
        return x.new_zeros(len(table), x.shape[1]).index_add_(0, index.flatten(), pairs)

    def scatter_kernel(weight: Tensor, x: Tensor, index: Tensor) -> Tensor:
        return torch.ops.layersmith.rows_scatter(weight, x, index, len(table))

    def pairs(scores: Tensor) -> Tensor:
        best, where = scores.topk(16, dim=-1)
        sums = (best[:, 0, :, :, None] + best[:, 1, :, None, :]).flatten(-2)
        numbers = (where[:, 0, :, :, None] * 128 + where[:, 1, :, None, :]).flatten(-2)
        return numbers.gather(-1, sums.topk(16, dim=-1).indices).transpose(0, 1).contiguous()

    def pairs_kernel(scores: Tensor) -> Tensor:
        return gather.best_pairs(scores, 16)

    return [
        Case("rows_dot_cpu", "64 x 128 of 16,384 x 576", gather.rows_dot, dot, (x, table, index)),
        Case("rows_scatter_cpu", "64 x 128 into 16,384 x 576", scatter_kernel, scatter, (weight, x, index)),
        Case("best_pairs_cpu", "64 x 8 x 2 x 128", pairs_kernel, pairs, (scores,)),
    ]


def trees() -> list[Case]:
    tree, found = FFF(D, depth=10).eval(), []
    for tokens in (1, 64):
        x = torch.randn(tokens, D)
        found.append(Case("tree_mlp", f"{tokens} x 576, 11 levels", tree, tree, (x,)))
        way = (x, tree.up.detach(), tree.bias.detach())
        found.append(Case("tree_descend", f"{tokens} x 576, 11 levels", descend, descend, way))
    return found


def linear_maps() -> list[Case]:
    """One token times one matrix, while one after another is written; and many in int8."""

    def one_row_kernel(x: Tensor, weight: Tensor) -> Tensor:
        return one_row.one_row_linear(x, weight, None)

    def int8_kernel(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        return int8.int8_linear(x, codes, scale, None)

    def int8_reference(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        return int8.reference(x, codes, scale, None)

    x, weight = torch.randn(1, D), torch.randn(2 * HIDDEN, D)
    codes, scale = torch.randint(-127, 128, (HIDDEN, D), dtype=torch.int8), torch.rand(HIDDEN)
    found = [Case("one_row", "1 x 576 by 3072 x 576", one_row_kernel, F.linear, (x, weight))]
    for tokens in (1, 16, 512):
        given = (torch.randn(tokens, D), codes, scale)
        found.append(Case("int8_linear", f"{tokens} x 576 by 1536 x 576", int8_kernel, int8_reference, given))
    for bits in (8, 4):
        found += _packed(QuantizedLinear.from_weight(torch.randn(HIDDEN, D), bits, 64), x)
    part = QuantizedLinear(D, HIDDEN, 4, 32, input_bits=8)

    def rounding_reference(x: Tensor) -> Tensor:
        return F.linear(rounded_inputs(x, 32), part.unpacked())

    found.append(Case("packed_row_int8", "1 x 576 in int8 by 1536 x 576, 4 bits", part, rounding_reference, (x,)))
    return found


def _packed(part: QuantizedLinear, x: Tensor) -> list[Case]:
    def reference(x: Tensor) -> Tensor:
        return F.linear(x, part.unpacked())

    size = f"1536 x 576, {part.bits} bits"
    return [
        Case("packed_row", f"1 x 576 by {size}", part, reference, (x,)),
        Case("unpacked", size, part.dense_weight, part.unpacked, ()),
    ]


def attention() -> list[Case]:
    return [*[_attention(slots) for slots in (128, 1024)], *[_causal(tokens) for tokens in (64, 512, 2048)]]


def _causal(tokens: int) -> Case:
    """As many tokens over themselves; heads lie beside one another in a token's row, as products leave them."""

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return causal.causal_attention(q, k, v, None)

    def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    q, k, v = (torch.randn(1, tokens, heads, HEAD).transpose(1, 2) for heads in (HEADS, KV_HEADS, KV_HEADS))
    return Case("causal_attention", f"{tokens} tokens", kernel, reference, (q, k, v))


def _attention(slots: int) -> Case:
    """A token that attends over `slots` others, in a cache that has room for twice as many."""
    room = (1, KV_HEADS, 2 * slots, HEAD)
    qkv = torch.randn(1, 1, (HEADS + 2 * KV_HEADS) * HEAD)
    table = turning_table(slots + 1, qkv, size=HEAD, theta=1e4, interleaved=False)

    def kernel(qkv: Tensor, table: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return cached.attend_one(qkv, cached.Place(table, slots, keys, values, slots, HEADS, HEAD**-0.5, False))

    def reference(qkv: Tensor, table: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        heads = qkv.view(1, 1, -1, HEAD)
        cos, sin = table[None, slots : slots + 1, :, None].unbind(2)
        turned = turn(heads[:, :, : HEADS + KV_HEADS], cos, sin, False)
        q, k, v = turned[:, :, :HEADS], turned[:, :, HEADS:], heads[:, :, HEADS + KV_HEADS :]
        keys[:, :, slots : slots + 1] = k.transpose(1, 2)
        values[:, :, slots : slots + 1] = v.transpose(1, 2)
        seen = keys[:, :, : slots + 1], values[:, :, : slots + 1]
        return F.scaled_dot_product_attention(q.transpose(1, 2), *seen, enable_gqa=True).transpose(1, 2).flatten(2)

    return Case("attend_one", f"1 after {slots}", kernel, reference, (qkv, table, torch.randn(room), torch.randn(room)))


def layers() -> list[Case]:
    """One token through a whole layer, after 128 others in a cache with room."""
    mixer = {"name": "fused_attention", "n_heads": HEADS, "n_kv_heads": KV_HEADS, "rope_theta": 1e4, "one_row": True}
    ffn, norm = {"name": "fused_glu", "d_hidden": HIDDEN, "one_row": True}, {"name": "rms_norm"}
    floats, bytes_ = (Series(D, mixer, ffn, norm, norm).requires_grad_(False) for _ in range(2))
    for part, names in ((bytes_.mixer, ("qkv", "o")), (bytes_.ffn, ("gate_up", "down"))):
        for name in names:
            setattr(part, name, QuantizedLinear.from_weight(getattr(part, name).weight, 8, 64))
    return [_layer(floats, "float32"), _layer(bytes_, "8 bits")]


@torch.no_grad()
def _layer(layer: Series, stored: str) -> Case:
    state = layer.keeper.settled(layer(torch.randn(1, 128, D))[1] or {})

    def step(x: Tensor) -> Tensor:
        return layer(x, state)[0]

    return Case("series_step", f"1 x 576 after 128, {stored}", step, step, (torch.randn(1, 1, D),))
