"""Copies of a feed-forward collapse to one, exactly, also when saved."""

import pytest
import torch

from layersmith.anatomy import find_sites, replacement_for
from layersmith.anatomy.edit import apply
from layersmith.anatomy.recognise import as_ffn
from layersmith.checkpoint import load, save
from layersmith.errors import UserError
from layersmith.ffn.averaged_copies import AveragedCopies
from layersmith.refitting.prove.folds import mean_of_copies
from tests.anatomy.families import BY_NAME
from tests.checkpoint.edited import output


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_fold_is_exact(name, tmp_path):
    torch.manual_seed(0)
    model, written = BY_NAME[name].model(), []
    for site in find_sites(model).of_kind("ffn"):
        part = AveragedCopies.from_dense(as_ffn(model, site).operator, 3).eval()
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        replacement = replacement_for(model, site, part)
        apply(model, replacement)
        written += [edit for edit, _ in replacement]
    inputs = BY_NAME[name].inputs()
    expected, before = output(model, inputs), sum(p.numel() for p in model.parameters())
    fold = mean_of_copies.fold(model, find_sites(model))
    undo = fold.apply(model)
    assert (output(model, inputs) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert not any(isinstance(module, AveragedCopies) for module in model.modules())
    assert sum(p.numel() for p in model.parameters()) < before
    undo()
    assert torch.equal(output(model, inputs), expected)
    fold.apply(model)
    replaced = {edit.path for edit in fold.written}
    save(model, [*[edit for edit in written if edit.path not in replaced], *fold.written], tmp_path)
    again, _ = load(tmp_path)
    assert torch.equal(output(again, inputs), output(model, inputs))


def test_a_model_without_them_is_refused():
    model = BY_NAME["gpt2"].model()
    with pytest.raises(UserError, match="no averaged experts to collapse"):
        mean_of_copies.fold(model, find_sites(model))
