"""What a view hands to a method: real tokens, however the sublayer was called."""

import torch

from layersmith.refitting.view import Call


def test_real_tokens_of_batches_and_of_flat_rows():
    x = torch.arange(24.0).reshape(2, 3, 4)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    call = Call((), {}, x, x, mask)
    expected = torch.stack([x[0, 0], x[0, 1], x[1, 0]])
    assert torch.equal(call.real(x), expected)
    assert torch.equal(call.real(x.reshape(6, 4)), expected), "OPT's feed-forward is given (B * T, D)"
    assert torch.equal(Call((), {}, x, x, None).real(x), x.reshape(6, 4))


def test_matrices_that_never_ran_have_no_moments(view):
    at = view("layers.1.attn")
    assert at.used_linears().keys() == at.linears().keys() == at.grams.keys()
    idle = torch.nn.Linear(32, 32)
    attention = at.model.get_submodule(at.site.modules[0])
    attention.add_module("waits_for_global_tokens", idle)
    try:
        again = view("layers.1.attn")
        assert idle in again.linears().values()
        assert idle not in again.used_linears().values()
    finally:
        del attention.waits_for_global_tokens
