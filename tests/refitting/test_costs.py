"""What candidates cost: what is predicted for a mix is what is measured of it, and what a mixer keeps is its own."""

import copy
from enum import Enum

import pytest
import torch
import torch.nn.functional as F
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, T5Config, T5ForConditionalGeneration

from layersmith import catalogue
from layersmith.anatomy import find_sites, replacement_for
from layersmith.anatomy.edit import Edit
from layersmith.anatomy.head import with_head
from layersmith.anatomy.twin import twin
from layersmith.checkpoint import stored_dtypes
from layersmith.linear.quantized import QuantizedLinear
from layersmith.measuring.cost import model_cost
from layersmith.measuring.shape import Shape
from layersmith.refitting.candidate import Candidate, Library, decided_sites, pack
from layersmith.refitting.score.costs import _settings, _signature, measure_costs
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import tiny_llama

SHAPES = [Shape("prefill", 2, 24), Shape("decode", 2, 24)]


def part(name, **config):
    return catalogue.build({"name": name, "d_model": 32, **config}).eval()


def keep(library, model, anatomy, name, replacement):
    """Store a candidate as the library would."""
    edits, tensors = pack(replacement)
    site = anatomy.site(name)
    candidate = Candidate(
        id=f"{name}/test",
        sites=decided_sites(anatomy, site, replacement),
        method="test",
        settings={},
        edits=edits,
        local_error=0.1,
        divergence=0.1,
    )
    library.workspace.save_tensors(f"library/{candidate.id}", tensors)
    library.candidates[candidate.id] = candidate
    return candidate


@pytest.fixture
def library(tmp_path):
    workspace = Workspace(tmp_path / "run", {})
    yield Library(workspace, [])
    workspace.close()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_predicted_is_measured_for_every_exact_cost(library, shape, dtype):
    model = tiny_llama(layers=5).to(dtype)
    anatomy = find_sites(model)
    down = model.model.layers[2].mlp.down_proj
    packed = QuantizedLinear.from_weight(down.weight, bits=4, group_size=32)
    mixes = {
        "layers.0.attn": part("linear_attention", n_heads=4),
        "layers.1.attn": part("softmax_attention", n_heads=4, n_kv_heads=1),
        "layers.1.ffn": part("mlp", d_hidden=16),
        "layers.3": part("zero"),
        "layers.4.attn": part("softmax_attention", n_heads=4, window=8),
        "layers.4.ffn": part("topk_moe", d_expert=16, n_experts=4, k=2),
    }
    chosen = [
        keep(library, model, anatomy, name, replacement_for(model, anatomy.site(name), module.to(dtype)))
        for name, module in mixes.items()
    ]
    edit = Edit("model.layers.2.mlp.down_proj", packed.spec(), {})
    chosen.append(keep(library, model, anatomy, "layers.2.ffn", [(edit, packed)]))
    costs = measure_costs(model, anatomy, library, shape, library.workspace, rounds=1)
    predicted = costs.predicted(chosen)
    edited = twin(model, [pair for c in chosen for pair in library.replacement(c)])
    measured = model_cost(edited, shape)
    for budget in ("params", "bytes", "flops", "kv"):
        assert predicted.of(budget) == measured.of(budget), budget
    assert predicted.params > sum(p.numel() for p in edited.parameters())  # four bits stand for a parameter each
    assert predicted.latency_ms is not None


@pytest.mark.parametrize("name", ["one_row", "int8_dynamic"])
def test_a_head_that_stays_tied_costs_no_weights_and_one_that_does_not_costs_its_own(library, name):
    """A copy of a tied head becomes the embedding's own weight again where it is put in place."""
    model = tiny_llama(layers=2)
    anatomy = with_head(model, find_sites(model))
    made = catalogue.resolve(name).from_weight(model.lm_head.weight.detach())
    kept = keep(library, model, anatomy, "head", [(Edit("lm_head", made.spec(), {}), made.eval())])
    costs = measure_costs(model, anatomy, library, SHAPES[0], library.workspace, rounds=1)
    measured = model_cost(twin(model, library.replacement(kept)), SHAPES[0])
    for budget in ("params", "bytes", "flops"):
        assert costs.predicted([kept]).of(budget) == measured.of(budget), budget
    assert (kept.cost.weight_bytes == 0) == (name == "one_row")


def test_nothing_of_the_model_is_touched_and_costs_are_kept(library):
    model = tiny_llama(layers=2)
    anatomy = find_sites(model)
    before = {name: id(module) for name, module in model.named_modules()}
    kept = keep(
        library, model, anatomy, "layers.1.attn", replacement_for(model, anatomy.site("layers.1.attn"), part("zero"))
    )
    costs = measure_costs(model, anatomy, library, SHAPES[1], library.workspace, rounds=1)
    assert {name: id(module) for name, module in model.named_modules()} == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert kept.cost.state_bytes == 0 < costs.of_site["layers.1.attn"].state_bytes
    found = kept.cost
    again = measure_costs(model, anatomy, library, SHAPES[1], library.workspace)
    assert again == costs
    assert kept.cost == found
    assert Candidate.from_json(kept.to_json()) == kept


def test_a_mixer_that_cannot_go_on_from_a_state_is_refused_with_the_reason(library):
    model = tiny_llama(layers=2)
    anatomy = find_sites(model)
    site = anatomy.site("layers.0.attn")
    mixer = part("softmax_attention", n_heads=4)
    kept = keep(library, model, anatomy, "layers.0.attn", replacement_for(model, site, mixer))
    kept.edits[0]["spec"] |= {"causal": False}
    measure_costs(model, anatomy, library, SHAPES[1], library.workspace, rounds=1)
    assert "cannot continue from a state" in kept.refused
    assert kept.cost is None


def squared(x):
    return x * x


def halved(x):
    return x / 2


def test_local_and_global_attention_do_not_share_a_figure(library):
    config = Gemma3TextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=8,
        pad_token_id=0,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )
    model = Gemma3ForCausalLM(config).eval()
    local, whole, other = (_settings(layer.self_attn) for layer in model.model.layers)
    assert local != whole
    assert local == other
    # Also where nothing that they are given tells them apart: at fewer tokens than the window holds.
    keys = [_signature({"attn": layer.self_attn}, {}, stored_dtypes(model)) for layer in model.model.layers]
    assert keys[0] == keys[2] != keys[1]
    costs = measure_costs(model, find_sites(model), library, Shape("decode", 1, 32), library.workspace, rounds=1)
    kv = [costs.of_site[f"layers.{i}.attn"].state_bytes for i in range(3)]
    assert kv[0] == kv[2] < kv[1]
    assert costs.outside.state_bytes == 0


class Kind(Enum):
    LOCAL = 1
    WHOLE = 2


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("window", 8, 9),
        ("dilations", [1, 1], [1, 3]),
        ("dilations", (1, [1]), (1, [2])),
        ("heads", {"kept": 2}, {"kept": 3}),
        ("pruned_heads", {1}, {1, 2}),
        ("activation", F.relu, F.gelu),
        ("activation", squared, halved),
        ("kind", Kind.LOCAL, Kind.WHOLE),
        ("compute", torch.float32, torch.float64),
    ],
)
def test_layers_that_differ_in_a_setting_of_any_kind_do_not_share_a_figure(name, one, other):
    def key(value, layer_idx=0):
        layer = torch.nn.Linear(2, 2)
        setattr(layer, name, value)
        layer.layer_idx, layer.config = layer_idx, object()
        return _signature({"x": layer}, {}, stored_dtypes(layer))

    assert key(one) == key(copy.copy(one), layer_idx=1)
    assert key(one) != key(other)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_stacks_of_an_encoder_decoder_have_a_cost(library, shape):
    torch.manual_seed(0)
    config = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    model = T5ForConditionalGeneration(config).eval()
    anatomy = find_sites(model)
    zero = replacement_for(model, anatomy.site("decoder.layers.1.cross_attn"), part("zero"))
    dropped = keep(library, model, anatomy, "decoder.layers.1.cross_attn", zero)
    costs = measure_costs(model, anatomy, library, shape, library.workspace, rounds=1)
    measured = model_cost(twin(model, copy.copy(library.replacement(dropped))), shape)
    for budget in ("params", "bytes", "flops", "kv"):
        assert costs.predicted([dropped]).of(budget) == measured.of(budget), budget
    idle = costs.of_site["encoder.layers.0.ffn"].latency_ms == 0.0
    assert idle == (shape.phase == "decode")
