"""Every method builds, saves and reloads at every kind of site it claims; and each is exact where it must be."""

import copy
from collections import namedtuple

import pytest
import torch

from layersmith.anatomy import Replay, find_sites
from layersmith.anatomy.edit import apply
from layersmith.errors import UserError
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.refitting import methods
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.batches import Batches
from layersmith.refitting.candidate import pack, unpack
from layersmith.refitting.method import candidate_id
from layersmith.refitting.methods.least_squares import fit_linear
from layersmith.refitting.methods.prune.heads import eliminate
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from layersmith.runs.workspace import Workspace
from tests.anatomy.families import BY_NAME
from tests.refitting.conftest import tiny_batches, tiny_llama, token_batches

#: Parts that any method may put in place beside those it is about: nothing at all, and a dense map with folded weights.
HELPERS = ("zero", "identity", "linear")
Plain = namedtuple("Plain", "operator")
SITE_OF = {
    "ffn": "layers.1.ffn",
    "mixer": "layers.1.attn",
    "norm": "layers.1.ffn_norm",
    "block": "layers.1",
    "head": "head",
}


def cases():
    for name in methods.METHODS:
        for kind in methods.get(name).kinds:
            yield pytest.param(name, kind, id=f"{name}-{kind}")


def statistics(name):
    return {"taylor": torch.linspace(-1, 1, 64)} if "taylor" in methods.get(name).statistics else {}


@pytest.mark.parametrize(("name", "kind"), cases())
def test_builds_reloads_and_leaves_the_model_alone(name, kind, view, llama):
    method, at = methods.get(name), view(SITE_OF[kind], **statistics(name))
    before = copy.deepcopy(llama.state_dict())
    assert method.unsupported_reason(at) is None
    grid = method.options(at)
    assert grid
    placed: set[str] = set()
    for settings in grid:
        replacement = method.build(at, settings)
        outputs = at.run(replacement, at.holdout)
        assert all(torch.isfinite(y).all() for y in outputs)
        again = unpack(*pack(replacement))
        assert all(torch.equal(a, b) for a, b in zip(outputs, at.run(again, at.holdout), strict=True))
        assert method.error(at, settings, replacement) < 5.0
        placed |= {edit.spec["name"] for edit, _ in replacement}
    assert placed <= {*method.builds, *HELPERS}
    assert bool(placed & {*method.builds}) == bool(method.builds)
    assert all(torch.equal(before[k], v) for k, v in llama.state_dict().items())


def test_floors_are_ordered(view):
    """On the data they were fitted to: a linear map beats the mean, the mean beats nothing."""
    at = view("layers.1.ffn")
    at.holdout = at.fit
    error = {
        n: at.local_error(methods.get(n).build(at, methods.get(n).options(at)[0])) for n in methods.FLOORS.values()
    }
    assert error["drop"] == pytest.approx(1.0, abs=1e-5)
    assert error["linear"] < error["rank_r"] < error["mean"] <= error["drop"]


def test_drop_takes_the_sublayers_own_norm_with_it(view):
    replacement = methods.get("drop").build(view("layers.1.attn"), {})
    assert [e.path for e, _ in replacement] == ["model.layers.1.self_attn", "model.layers.1.input_layernorm"]


def test_width_keeping_everything_is_the_original(view):
    at = view("layers.1.ffn")
    assert at.local_error(methods.get("width").build(at, {"keep": 1.0})) < 1e-6


def test_width_removes_planted_dead_channels_first(view, llama):
    at = view("layers.1.ffn")
    down = llama.model.layers[1].mlp.down_proj.weight
    saved = down.clone()
    try:
        down[:, ::2] = 0.0  # half of the channels contribute nothing
        at = view("layers.1.ffn")
        assert at.local_error(methods.get("width").build(at, {"keep": 0.5})) < 1e-6
    finally:
        down.copy_(saved)


def test_kv_merge_of_equal_heads_is_exact(view, llama):
    attention = llama.model.layers[1].self_attn
    saved = {n: getattr(attention, n).weight.clone() for n in ("k_proj", "v_proj")}
    try:
        for name in saved:
            weight = getattr(attention, name).weight
            weight[8:] = weight[:8]
        at = view("layers.1.attn")
        assert at.local_error(methods.get("kv_merge").build(at, {"kv_heads": 1})) < 1e-8
    finally:
        for name, weight in saved.items():
            getattr(attention, name).weight.copy_(weight)


def test_heads_that_contribute_nothing_go_first_and_without_a_trace(view, llama):
    out = llama.model.layers[1].self_attn.o_proj.weight
    saved = out.clone()
    try:
        out[:, :16] = 0.0  # the first group: two query heads and their key-value head
        at = view("layers.1.attn")
        assert at.local_error(methods.get("heads").build(at, {"groups": 1})) < 1e-8
        out.copy_(saved)
        out[:, 8:24] = 0.0  # one query head of each group
        at = view("layers.1.attn")
        assert at.local_error(methods.get("heads").build(at, {"queries": 1})) < 1e-8
        assert at.local_error(methods.get("heads").build(at, {"groups": 1})) > 0.01
    finally:
        out.copy_(saved)


def test_heads_leave_no_mean_error(view):
    at = view("layers.1.attn")
    replacement = methods.get("heads").build(at, {"queries": 1})
    wrong = torch.cat(at.run(replacement, at.fit)).flatten(0, 1) - at.outputs
    assert wrong.mean(0).norm() < 1e-5 * at.outputs.norm(dim=1).mean()


def test_elimination_refits_as_least_squares_does_and_takes_the_cheapest_first():
    torch.manual_seed(0)
    z = torch.randn(300, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)
    weight, gram = torch.randn(5, 12, dtype=torch.float64), z.T @ z
    units = torch.arange(12).view(6, 2)

    def error(kept):
        best = torch.linalg.lstsq(z[:, kept], z @ weight.T).solution.T
        return (z @ weight.T - z[:, kept] @ best.T).square().sum().item(), best

    kept, refitted = eliminate(gram, weight, units, torch.arange(6)[None], left=5)
    errors = {unit: error(torch.cat([units[i] for i in range(6) if i != unit]))[0] for unit in range(6)}
    cheapest = min(errors, key=errors.get)
    assert sorted({*range(12)} - {*kept.tolist()}) == units[cheapest].tolist()
    kept, refitted = eliminate(gram, weight, units, torch.arange(6).view(2, 3), left=1)
    assert kept.shape == (4,)
    assert (kept < 6).sum() == 2
    torch.testing.assert_close(refitted, error(kept)[1], rtol=1e-8, atol=1e-10)


def test_topk_of_everything_and_carving_with_all_experts_are_the_original(view):
    at = view("layers.1.ffn")
    assert at.local_error(methods.get("topk").build(at, {"keep": 1.0})) < 1e-8
    assert at.local_error(methods.get("carve").build(at, {"shared": 2, "k": 6})) < 1e-8


def test_span_over_a_block_that_does_nothing_is_exact(tmp_path):
    """A block that adds zero can be removed without a trace: the fitted map is the identity."""
    model = tiny_llama(layers=4, seed=3)
    silent = model.model.layers[1]
    silent.self_attn.o_proj.weight.zero_()
    silent.mlp.down_proj.weight.zero_()
    anatomy = find_sites(model)
    workspace = Workspace(tmp_path / "run", {})
    activations = Activations(Replay(model, anatomy), anatomy, tiny_batches(), workspace)
    activations.calibrate()
    at = activations.view(anatomy.site("layers.0.ffn"))
    method = methods.get("span")
    replacement = method.build(at, {"blocks": 1})
    assert method.error(at, {"blocks": 1}, replacement) < 1e-4
    ids = torch.arange(40)[None]
    student = copy.deepcopy(model)
    apply(student, replacement)
    assert (student(ids).logits - model(ids).logits).norm() < 0.02 * model(ids).logits.norm()
    workspace.close()


def test_width_by_gradient_keeping_everything_is_the_original(view):
    at = view("layers.1.ffn", taylor=torch.linspace(-1, 1, 64))
    assert at.local_error(methods.get("width_taylor").build(at, {"keep": 1.0})) < 1e-6


def test_linear_attention_of_one_token_is_softmax_attention(llama, tmp_path):
    """One token can only attend to itself, whatever the kernel: only the carried-over weights are left to matter."""
    anatomy, workspace = find_sites(llama), Workspace(tmp_path / "run", {})
    alone = Batches(*(token_batches(3, rows=8, length=1, seed=seed) for seed in range(5)))
    activations = Activations(Replay(llama, anatomy), anatomy, alone, workspace)
    activations.calibrate()
    at = activations.view(anatomy.site("layers.1.attn"))
    method = methods.get("linear_attention")
    assert at.local_error(method.build(at, method.options(at)[0])) < 1e-8
    workspace.close()


def test_gr_kan_is_the_mlp_it_starts_from_up_to_the_fit_of_the_activation(view):
    at = view("layers.1.ffn")
    mlp = nearest_mlp(at)
    part = methods.get("gr_kan").build(at, {"groups": 8})[0][1]
    expected = mlp(at.inputs)
    assert (part(at.inputs) - expected).norm() < 0.01 * expected.norm()


def test_poly_norm_with_fitted_scalars_beats_its_usual_start(view):
    at = view("layers.1.ffn")
    fitted = methods.get("poly_norm").build(at, {"order": 3})
    part = copy.deepcopy(fitted[0][1])
    with torch.no_grad():
        part.a.copy_(torch.tensor([0.0, 1 / 3, 1 / 3, 1 / 3]))
    fit_linear(part.down, part.activation(part.up(at.inputs)), at.targets)
    at.holdout = at.fit  # on the data that both were fitted to
    assert at.local_error(fitted) < at.local_error([(fitted[0][0], part)])


def plain_ffn(tmp_path):
    """A view of a plain feed-forward (GPT-2's form) for methods that treat those in their own way."""
    model = BY_NAME["gpt2"].model().requires_grad_(False)
    anatomy, workspace = find_sites(model), Workspace(tmp_path / "run", {})
    few = Batches(*([{k: v % 90 for k, v in b.items()} for b in token_batches(3, seed=seed)] for seed in range(5)))
    activations = Activations(Replay(model, anatomy), anatomy, few, workspace)
    activations.calibrate()
    at = activations.view(anatomy.site("layers.1.ffn"))
    workspace.close()
    return at


def test_topk_of_everything_in_a_plain_feed_forward_is_the_original(tmp_path):
    at = plain_ffn(tmp_path)
    assert at.ffn.operator.name == "mlp"
    assert at.local_error(methods.get("topk").build(at, {"keep": 1.0})) < 1e-8


def test_poly_relu_of_squared_relu_is_exact(view):
    """Squared ReLU is one of its polynomials, so nothing but the ridge term of the output map is lost."""
    at = view("layers.1.ffn")
    torch.manual_seed(0)
    at.ffn = Plain(MLP(32, 64, act="relu2", bias=True))
    at.targets = at.ffn.operator(at.inputs).detach()
    part = methods.get("poly_relu").build(at, {"order": 3})[0][1]
    torch.testing.assert_close(part.a, torch.tensor([0.0, 0.0, 1.0, 0.0]), atol=1e-3, rtol=0)
    assert (part(at.inputs) - at.targets).norm() < 0.05 * at.targets.norm()


def test_bilinear_of_a_layer_without_activation_is_that_layer(view):
    at = view("layers.1.ffn")
    torch.manual_seed(0)
    at.ffn = Plain(GLU(32, 64, act="identity", bias=True))
    at.targets = at.ffn.operator(at.inputs).detach()
    part = methods.get("bilinear").build(at, {})[0][1]
    torch.testing.assert_close(part.gate.weight, at.ffn.operator.gate.weight, rtol=1e-4, atol=1e-5)
    assert (part(at.inputs) - at.targets).norm() < 0.05 * at.targets.norm()


def test_dyt_is_a_norm_whose_inputs_all_have_the_same_size(view):
    """Then the norm is linear, and so is tanh for a small alpha."""
    at = view("layers.1.ffn_norm")
    x = torch.nn.functional.normalize(at.inputs, dim=-1)
    at.inputs, at.targets = x, at.original(x)
    part = methods.get("dyt").build(at, {})[0][1]
    assert (part(x) - at.targets).norm() < 0.01 * at.targets.norm()


def test_unknown_method_suggests():
    with pytest.raises(UserError, match="Did you mean 'width'"):
        methods.get("widht")


def test_default_methods_follow_the_budget():
    assert "gptq" in methods.chosen(None, ["bytes"])
    assert "gptq" not in methods.chosen(None, ["latency"])
    assert "kv_merge" in methods.chosen(None, ["kv"])
    assert "heads" not in methods.chosen(None, ["kv"])


def test_ids_are_stable():
    assert candidate_id("layers.3.ffn", "width", {"keep": 0.5}) == "layers.3.ffn/width/keep=0.5"
    assert candidate_id("layers.3.ffn", "drop", {}) == "layers.3.ffn/drop/default"
