"""Figures that candidates are compared by, each in a case where the formula next to it gives another number."""

import pytest
import torch

from layersmith.anatomy import find_sites, replacement_for
from layersmith.anatomy.twin import twin
from layersmith.ffn.mlp import MLP
from layersmith.measuring.cost import model_cost
from layersmith.measuring.latency import Timing, ratio
from layersmith.measuring.shape import Shape
from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.refitting import methods
from layersmith.refitting.build.distill import relative_error
from layersmith.refitting.candidate import Candidate, Library, pack, unpack
from layersmith.refitting.score import costs as scoring
from layersmith.runs.workspace import Workspace
from tests.architectures.every import EVERY
from tests.refitting.conftest import tiny_llama


def timing(*samples):
    return Timing(median=sorted(samples)[1], p25=0.0, p75=0.0, n=3, samples=samples)


def test_a_latency_ratio_is_the_median_of_the_rounds_ratios():
    """4, 1 and 2 times as long within the rounds; the ratio of the medians would be 1."""
    timings = {"mix": timing(4.0, 10.0, 20.0), "original": timing(1.0, 10.0, 10.0)}
    assert ratio(timings, "mix", "original") == 2.0


def squares(x):
    return sum(v * v for v in x.double().flatten().tolist())


def test_the_error_of_a_block_is_relative_to_what_the_block_adds(view):
    """Its own input passes through it; next to that, no error would look large."""
    at = view("layers.1")
    replacement = methods.get("rank_r").build(at, {"rank": 4})
    wrong = added = stream = 0.0
    for call, found in zip(at.holdout, at.run(replacement, at.holdout), strict=True):
        wrong += squares(found - call.output)
        added += squares(call.output - call.input)
        stream += squares(call.output)
    assert at.local_error(replacement) == pytest.approx(wrong / added, rel=1e-4)
    assert wrong / stream < 0.9 * wrong / added
    call = at.holdout[0]
    found = at.run(replacement, [call])[0]
    expected = squares(found - call.output) / squares(call.output - call.input)
    assert relative_error(at, call, found).item() == pytest.approx(expected, rel=1e-4)


def test_the_error_of_a_sublayer_is_relative_to_its_output(view):
    at = view("layers.1.attn")
    replacement = methods.get("rank_r").build(at, {"rank": 4})
    outputs = at.run(replacement, at.holdout)
    wrong = sum(squares(found - call.output) for call, found in zip(at.holdout, outputs, strict=True))
    assert at.local_error(replacement) == pytest.approx(wrong / sum(squares(c.output) for c in at.holdout), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_cache_counts_by_the_size_of_its_elements(dtype):
    size = torch.empty((), dtype=dtype).element_size()
    model = tiny_llama(layers=2).to(dtype)
    cost = model_cost(model, Shape("prefill", 2, 16))
    assert cost.state_bytes == 2 * 16 * 2 * 2 * 2 * 8 * size  # batch, tokens, layers, keys and values, heads, width
    attention = SoftmaxAttention(32, 4, 2, 8).to(dtype)
    assert attention.state_bytes(16, batch=2) == 2 * 16 * 2 * 2 * 8 * size


def test_a_shared_block_counts_as_often_as_it_runs_and_its_weights_once(tmp_path, monkeypatch):
    """ALBERT runs one block for all of its layers; every step is made to take a millisecond here."""
    model = EVERY["albert"].model()
    anatomy = find_sites(model)
    ffn = anatomy.site("layers.0.ffn")
    assert ffn.calls == 2
    edits, tensors = pack(replacement_for(model, ffn, MLP(32, 16).eval()))
    narrow = Candidate(f"{ffn.name}/test", [ffn.name], "test", {}, edits, local_error=0.1)
    workspace = Workspace(tmp_path / "run", {})
    workspace.save_tensors(f"library/{narrow.id}", tensors)
    library = Library(workspace, [], {narrow.id: narrow})
    once = Timing(1e-3, 1e-3, 1e-3, 1, (1e-3,))
    monkeypatch.setattr(scoring, "latency", lambda steps, **_: dict.fromkeys(steps, once))
    costs = scoring.measure_costs(model, anatomy, library, Shape("prefill", 2, 8), workspace)
    workspace.close()
    assert costs.of_site[ffn.name].latency_ms == narrow.cost.latency_ms == 2.0
    assert narrow.cost.flops == 2 * (2 * 2 * (2 * 8) * 32 * 16)
    assert narrow.cost.params == 2 * 32 * 16 + 16 + 32
    changed = model_cost(twin(model, library.replacement(narrow)), Shape("prefill", 2, 8))
    for budget in ("params", "bytes", "flops"):
        assert costs.predicted([narrow]).of(budget) == changed.of(budget), budget


def test_stored_weights_are_read_without_drawing_random_ones_first(view):
    at = view("layers.1.ffn")
    for method, settings in [("width", {"keep": 0.5}), ("int8_dynamic", {}), ("low_rank", {"keep": 0.5})]:
        made = methods.get(method).build(at, settings)
        before = torch.get_rng_state()
        found = unpack(*pack(made))
        assert torch.equal(torch.get_rng_state(), before)
        for (_, module), (_, read) in zip(made, found, strict=True):
            assert module.state_dict().keys() == read.state_dict().keys()
            assert all(torch.equal(v, module.state_dict()[k]) for k, v in read.state_dict().items())
            assert not any(t.is_meta for t in [*read.parameters(), *read.buffers()])


def test_a_candidate_with_weights_of_another_is_not_loaded(view):
    at = view("layers.1.ffn")
    edits, tensors = pack(methods.get("width").build(at, {"keep": 0.5}))
    assert unpack(edits, tensors)
    with pytest.raises(RuntimeError, match=r"does not fit it: up\.bias"):
        unpack(edits, {**tensors, "0.up.bias": torch.zeros(32)})
    with pytest.raises(RuntimeError, match=r"does not fit it: up\.weight"):
        unpack(edits, {k: v for k, v in tensors.items() if k != "0.up.weight"})
