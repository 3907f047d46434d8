"""Fixed norms disappear into their readers without a trace, also when saved; sinks and unfinished ones stay."""

import pytest
import torch

from layersmith.anatomy import find_sites, replacement_for
from layersmith.anatomy.edit import apply
from layersmith.checkpoint import load, save
from layersmith.errors import UserError
from layersmith.ffn.identity import Identity
from layersmith.norm.fixed_norm import FixedNorm
from layersmith.refitting import methods
from layersmith.refitting.prove.folds import fixed_norm
from tests.anatomy.families import BY_NAME
from tests.checkpoint.edited import output


def with_fixed_norms(name, **settings):
    """The family's model with a random fixed norm at every norm."""
    torch.manual_seed(0)
    model, edits = BY_NAME[name].model(), []
    for site in find_sites(model).of_kind("norm"):
        part = FixedNorm(site.d_model, **settings).eval()
        with torch.no_grad():
            for tensor in part.parameters():
                tensor.add_(0.3 * torch.randn_like(tensor))
            part.std.uniform_(0.5, 2)
        edits += replacement_for(model, site, part)
    apply(model, edits)
    return model, [edit for edit, _ in edits]


@pytest.mark.oracle("fixed_norm")
@pytest.mark.parametrize(("name", "bias"), [("gpt2", True), ("llama", False), ("llama", True)])
@pytest.mark.parametrize("centre", [True, False])
def test_the_fold_is_exact(name, bias, centre, tmp_path):
    model, written = with_fixed_norms(name, centre=centre, bias=bias)
    model, inputs = model.double(), BY_NAME[name].inputs()
    expected = output(model, inputs)
    fold = fixed_norm.fold(model, find_sites(model))
    undo = fold.apply(model)
    assert (output(model, inputs) - expected).abs().max() < 1e-10 * expected.abs().max()
    left = [path for path, module in model.named_modules() if isinstance(module, FixedNorm)]
    assert len(left) == len(fold.notes) <= 1
    assert sum(isinstance(module, Identity) for module in model.modules()) >= 4
    undo()
    assert torch.equal(output(model, inputs), expected)

    model = model.float()
    fold = fixed_norm.fold(model, find_sites(model))
    fold.apply(model)
    replaced = {edit.path for edit in fold.written}
    save(model, [*[e for e in written if e.path not in replaced], *fold.written], tmp_path)
    again, _ = load(tmp_path)
    assert torch.equal(output(again, inputs), output(model, inputs))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"sinks": True}, "divides sinks by a number of their own"), ({"steps": 3}, "until 3 steps of training are done")],
    ids=str,
)
def test_what_is_not_linear_stays(settings, said):
    model, _ = with_fixed_norms("gpt2", **settings)
    with pytest.raises(UserError, match=said):
        fixed_norm.fold(model, find_sites(model))


SITE = "layers.1.ffn_norm"


def test_the_method_measures_sizes_and_finds_the_gain_of_the_norm(view):
    at = view(SITE)
    x = at.inputs.clone()
    x[::7] *= 50.0  # sinks
    at.inputs, at.targets = x, at.original(x)
    ((_, part),) = methods.get("fixed_norm").build(at, {"sinks": True})
    assert not part.centre, "the model's norms are RMSNorms"
    assert part.bias is None
    torch.testing.assert_close(part.weight, at.original.weight, rtol=1e-4, atol=1e-5)
    sizes = x.double().square().mean(-1).sqrt()
    large = sizes > 4 * sizes.median()
    assert 0.1 < large.double().mean() < 0.2
    assert part.std.item() == pytest.approx(sizes[~large].mean().item(), rel=1e-3)
    assert part.sink_std.item() == pytest.approx(sizes[large].mean().item(), rel=1e-3)
    ((_, plain),) = methods.get("fixed_norm").build(at, {"sinks": False})

    def error(norm):
        return float((norm(x) - at.targets).square().sum() / at.targets.square().sum())

    assert error(part) < 0.5 * error(plain)


def test_tokens_of_one_size_lose_nothing(view):
    at = view(SITE)
    x = torch.nn.functional.normalize(at.inputs, dim=-1)
    at.inputs, at.targets = x, at.original(x)
    for settings in methods.get("fixed_norm").options(at):
        ((_, part),) = methods.get("fixed_norm").build(at, settings)
        assert (part(x) - at.targets).norm() < 1e-4 * at.targets.norm()


def test_a_layer_norm_is_told_from_an_rms_norm(view):
    at = view(SITE)
    norm = torch.nn.LayerNorm(32)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    at.targets = norm(at.inputs).detach()
    ((_, part),) = methods.get("fixed_norm").build(at, {"sinks": False})
    assert part.centre
    torch.testing.assert_close(part.weight, norm.weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(part.bias, norm.bias, rtol=1e-3, atol=1e-4)
