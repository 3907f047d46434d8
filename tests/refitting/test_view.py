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


def test_one_run_of_a_block_serves_all_of_its_sites_and_peaks_are_those_of_the_inputs(activations, monkeypatch):
    runs, capture = [], activations.replay.capture
    monkeypatch.setattr(activations.replay, "capture", lambda index, *rest: runs.append(index) or capture(index, *rest))
    activations.forget()
    sites = [*activations.anatomy.in_block("layers.1"), activations.anatomy.site("layers.1")]
    views = {site.name: activations.view(site) for site in sites}
    assert runs == [1] * 6, "four batches to fit and two held out"
    for site in sites:
        for mine, alone in zip(views[site.name].fit, _alone(activations, capture, site), strict=True):
            assert torch.equal(mine.input, alone.input)
            assert torch.equal(mine.output, alone.hidden)
    ffn = views["layers.1.ffn"]
    (gate,) = [path for path in ffn.linears() if "gate" in path]
    assert torch.equal(ffn.largest[gate], ffn.inputs.abs().amax(0))
    activations.view(activations.anatomy.site("layers.2.ffn"))
    assert runs[6:] == [2] * 6, "another block is run anew"


def _alone(activations, capture, site):
    """What a site's own module is called with when nothing else is watched."""
    entered = activations._load("calibration/block-001")
    for i, batch in enumerate(activations._batches.fit):
        yield capture(1, entered[f"fit.{i}"], batch, site.modules)[1][site.modules[0]][0]
