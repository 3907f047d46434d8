"""A finished PRepBN disappears into its readers without a trace, also when saved; an unfinished one stays."""

import pytest
import torch

from layersmith.anatomy import find_sites, replacement_for
from layersmith.anatomy.edit import apply
from layersmith.checkpoint import load, save
from layersmith.errors import UserError
from layersmith.ffn.identity import Identity
from layersmith.norm.prep_bn import PRepBN
from layersmith.refitting.prove.folds import rep_bn
from tests.anatomy.families import BY_NAME
from tests.checkpoint.edited import output


def batch_normed(name, steps=0):
    """The family's model with a random PRepBN at every norm."""
    torch.manual_seed(0)
    model, edits = BY_NAME[name].model(), []
    for site in find_sites(model).of_kind("norm"):
        part = PRepBN(site.d_model, steps=steps).eval()
        with torch.no_grad():
            for tensor in [*part.parameters(), part.mean]:
                tensor.add_(0.3 * torch.randn_like(tensor))
            part.var.uniform_(0.5, 2)
        edits += replacement_for(model, site, part)
    apply(model, edits)
    return model, [edit for edit, _ in edits]


@pytest.mark.oracle("prep_bn")
@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_the_fold_is_exact(name, tmp_path):
    """With biases in GPT-2's and OPT's readers, new biases in Llama's; a tied head keeps its norm."""
    model, written = batch_normed(name)
    model, inputs = model.double(), BY_NAME[name].inputs()
    expected = output(model, inputs)
    fold = rep_bn.fold(model, find_sites(model))
    undo = fold.apply(model)
    assert (output(model, inputs) - expected).abs().max() < 1e-10 * expected.abs().max()
    left = [path for path, module in model.named_modules() if isinstance(module, PRepBN)]
    assert len(left) == len(fold.notes) <= 1
    assert sum(isinstance(module, Identity) for module in model.modules()) >= 4
    undo()
    assert torch.equal(output(model, inputs), expected)

    model = model.float()
    fold = rep_bn.fold(model, find_sites(model))
    fold.apply(model)
    replaced = {edit.path for edit in fold.written}
    save(model, [*[e for e in written if e.path not in replaced], *fold.written], tmp_path)
    again, _ = load(tmp_path)
    assert torch.equal(output(again, inputs), output(model, inputs))


def test_an_unfinished_norm_stays():
    model, _ = batch_normed("gpt2", steps=3)
    with pytest.raises(UserError, match="at step 0 of 3, so it is a LayerNorm in part"):
        rep_bn.fold(model, find_sites(model))
