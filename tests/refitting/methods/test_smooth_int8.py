"""SmoothQuant's migration by hand: scales as in the paper, the same function before rounding, less lost by rounding."""

import math
from types import SimpleNamespace

import pytest
import torch

from layersmith.anatomy import Replay, find_sites
from layersmith.linear.int8_dynamic import Int8Dynamic, rounded
from layersmith.refitting import methods
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.methods.quantize.smooth_int8 import smoothing
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import tiny_batches, tiny_llama

PATHS = {"ffn": ("mlp.up_proj", "mlp.down_proj"), "attn": ("self_attn.v_proj", "self_attn.o_proj")}


@pytest.fixture(scope="module")
def lopsided(tmp_path_factory):
    """A Llama in whose second block one channel of values, and one hidden channel, are a hundred times as large."""
    model = tiny_llama()
    block = model.model.layers[1]
    block.mlp.up_proj.weight[5] *= 100
    block.mlp.down_proj.weight[:, 5] /= 100
    block.self_attn.v_proj.weight[3] *= 100
    block.self_attn.o_proj.weight[:, [3, 11]] /= 100  # two query heads of eight channels read each key head
    anatomy = find_sites(model)
    made = Activations(
        Replay(model, anatomy), anatomy, tiny_batches(), Workspace(tmp_path_factory.mktemp("smooth") / "run", {})
    )
    made.calibrate()
    return made


def by_hand(weight, inputs, alpha, readers):
    """s_j with the maxima taken over all inputs that come from channel j: `readers(j)`."""
    scales = []
    for mine in readers:
        x = max(abs(v) for row in inputs for v in (row[i] for i in mine))
        w = max(abs(v) for row in weight for v in (row[i] for i in mine))
        scales.append(x**alpha / w ** (1 - alpha))
    return scales


def entering(view, path):
    """What enters the matrix at a path, row by row."""
    rows = []
    hook = view.model.get_submodule(path).register_forward_pre_hook(lambda _, args: rows.append(args[0].flatten(0, 1)))
    try:
        view.run([], view.fit)
    finally:
        hook.remove()
    return torch.cat(rows).double().tolist()


@pytest.mark.parametrize("site", ["ffn", "attn"])
@pytest.mark.parametrize("alpha", [0.5, 0.75])
def test_channels_are_scaled_as_the_paper_says_and_the_function_stays(lopsided, site, alpha):
    view = lopsided.view(lopsided.anatomy.site(f"layers.1.{site}"))
    makes, reads = (f"model.layers.1.{path}" for path in PATHS[site])
    parts = {edit.path: part for edit, part in methods.get("smooth_int8").build(view, {"alpha": alpha})}
    assert parts.keys() == view.linears().keys()
    assert all(type(part) is Int8Dynamic for part in parts.values())
    made, read = (view.linears()[path].weight.double() for path in (makes, reads))
    readers = (
        [[j] for j in range(64)]
        if site == "ffn"
        else [[16 * (j // 8) + j % 8 + 8 * r for r in (0, 1)] for j in range(16)]
    )
    scale = torch.tensor(by_hand(read.tolist(), entering(view, reads), alpha, readers), dtype=torch.float64)
    wide = torch.empty(read.shape[1], dtype=torch.float64)
    for j, mine in enumerate(readers):
        wide[mine] = scale[j]
    for path, wanted in ((makes, made / scale[:, None]), (reads, read * wide)):
        codes, step = rounded(wanted)
        assert (parts[path].codes - codes).abs().max() <= 1  # float32 here, float64 there: a tie may fall either way
        torch.testing.assert_close(parts[path].scale, step, rtol=1e-5, atol=0)
    others = parts.keys() - {makes, reads}
    assert all(torch.equal(parts[path].codes, rounded(view.linears()[path].weight)[0]) for path in others)
    spread = [max(map(abs, column)) for column in zip(*entering(view, reads), strict=True)]
    smoothed = [value / s for value, s in zip(spread, wide.tolist(), strict=True)]
    assert max(smoothed) / min(smoothed) < 0.2 * max(spread) / min(spread)


@pytest.mark.parametrize("site", ["ffn", "attn"])
def test_an_outlier_costs_less_than_by_plain_rounding_and_nothing_where_there_is_none(lopsided, site):
    for layer, bound in [(1, 0.5), (2, 1.5)]:
        view = lopsided.view(lopsided.anatomy.site(f"layers.{layer}.{site}"))
        plain, smooth = (
            view.local_error(methods.get(name).build(view, settings))
            for name, settings in (("int8_dynamic", {}), ("smooth_int8", {"alpha": 0.5}))
        )
        assert smooth < bound * plain, (layer, plain, smooth)


def test_a_channel_that_is_never_used_or_never_read_stays():
    largest, weight = torch.tensor([0.0, 2.0, 8.0]), torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, -1.0]])
    found = smoothing(largest, weight, (3, 1, 1), 0.5)
    assert found.tolist() == pytest.approx([1.0, 1.0, math.sqrt(8 / 2)])


def test_it_refuses_what_has_no_such_channels():
    def reason(kind, name, parts):
        found = SimpleNamespace(operator=SimpleNamespace(name=name), parts=dict.fromkeys(parts, "path"))
        is_ffn = kind == "ffn"
        view = SimpleNamespace(
            site=SimpleNamespace(kind=kind), ffn=found if is_ffn else None, attention=None if is_ffn else found
        )
        return methods.get("smooth_int8").unsupported_reason(view)

    assert reason("ffn", "glu", ["gate", "up", "down"]) is None
    assert reason("mixer", "softmax_attention", ["q", "k", "v", "o"]) is None
    assert "neither a gated" in reason("ffn", "mlp", ["up", "down"])
    assert "one with others" in reason("ffn", "glu", ["gate_up", "down"])
    assert "one with others" in reason("mixer", "softmax_attention", ["qkv", "o"])
    unknown = SimpleNamespace(site=SimpleNamespace(kind="mixer"), ffn=None, attention=None)
    assert "nor softmax attention" in methods.get("smooth_int8").unsupported_reason(unknown)
