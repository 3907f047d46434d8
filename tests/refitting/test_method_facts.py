"""What a method says of itself is true: what it saves, what it reads of the calibration, and whether a run tries it."""

import copy
import csv
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from layersmith.anatomy import Replay, find_sites
from layersmith.anatomy.edit import apply, restore
from layersmith.anatomy.head import with_head
from layersmith.checkpoint.dtypes import StoredDtypes
from layersmith.cost import FIELDS
from layersmith.errors import UserError
from layersmith.measuring.calls import capture_calls
from layersmith.measuring.cost import cost_of, read
from layersmith.measuring.shape import Shape
from layersmith.refitting import methods
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.candidate import pack
from layersmith.refitting.method import STATISTICS
from layersmith.refitting.view import SublayerView
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import tiny_batches
from tests.refitting.test_methods import SITE_OF

#: The methods that a run has tried by itself so far, for each budget.
TRIED = {
    "latency": "fused_attention fused_glu fused_norm one_row "
    "drop mean linear rank_r width width_taylor span kv_merge low_rank topk idle_ffn int8_dynamic int8_weight "
    "int4_weight bf16",
    "params": "drop mean linear rank_r width width_taylor span kv_merge low_rank idle_ffn",
    "bytes": "drop mean linear rank_r width width_taylor span kv_merge low_rank idle_ffn int8_dynamic int8_weight "
    "int4_weight bf16 rtn gptq",
    "flops": "drop mean linear rank_r width width_taylor span kv_merge low_rank linear_attention topk carve idle_ffn",
    "kv": "drop mean linear rank_r span kv_merge sliding_window linear_attention",
}
FORMATS = ["int8_dynamic", "int8_weight", "int4_weight", "bf16"]
#: Those of them that a number format may follow.
CHAINED = ["fused_attention", "fused_glu", "width", "width_taylor", "kv_merge", "low_rank"]
#: What is saved at one token at a time, or in long texts alone: counted there.
AT_OTHER_LENGTHS = {("topk", "flops"): 1, ("linear_attention", "flops"): 1024, ("mamba2", "flops"): 1024}
#: Methods that save time and nothing that can be counted have to show it on a clock.
CLOCKED = Path(__file__).resolve().parents[2] / "benchmarks/results/latency_alone.csv"


@pytest.mark.parametrize("budget", FIELDS)
def test_a_run_tries_the_methods_it_has_tried_so_far(budget):
    assert [name for name in methods.chosen(None, [budget]) if "+" not in name] == TRIED[budget].split()


@pytest.mark.parametrize("budget", FIELDS)
def test_a_run_tries_the_chains_of_them_with_each_number_format(budget):
    tried = TRIED[budget].split()
    first = [name for name in tried if name in CHAINED]
    pairs = {f"{name}+{then}" for name in first for then in FORMATS if then in tried}
    assert {name for name in methods.chosen(None, [budget]) if "+" in name} == pairs


@pytest.mark.parametrize("name", [*CHAINED, "heads"])
def test_a_format_that_follows_finds_every_matrix(name, activations):
    """What may be followed leaves nothing but plain weight matrices: biases and norms are all that stays in floats."""
    method = methods.get(name)
    site = activations.anatomy.site(SITE_OF[method.kinds[0]])
    given = taylor() if "taylor" in method.statistics else {}
    at = activations.view(site, 0, given)
    made = methods.get(f"{name}+int8_dynamic").build(at, method.options(at)[-1])
    _, tensors = pack(made)
    assert not [k for k, v in tensors.items() if v.is_floating_point() and v.ndim > 1]


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_states_its_facts_itself(name):
    method = methods.get(name)
    own = vars(type(method))
    assert own.keys() >= {"name", "kinds", "default", "saves", "when_it_pays"}
    assert set(method.saves) <= set(FIELDS)
    assert set(method.statistics) <= set(STATISTICS)
    assert isinstance(method.default, bool)
    assert method.saves or not method.default
    for sentence in (method.when_it_pays, method.differs):
        assert sentence == "" or (sentence.endswith(".") and sentence[0].isupper() and ".  " not in sentence)
        assert ". " not in sentence, "one sentence"
    assert method.when_it_pays


@pytest.fixture(scope="module")
def activations(tmp_path_factory):
    """Of a Llama wide enough that what a method adds (tables, thresholds) weighs less than what it takes out."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 192, "head_dim": 16, "vocab_size": 4096, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.15}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads)).eval().requires_grad_(False)
    anatomy = with_head(model, find_sites(model))
    workspace = Workspace(tmp_path_factory.mktemp("facts") / "run", {})
    made = Activations(Replay(model, anatomy), anatomy, tiny_batches(), workspace)
    made.calibrate()
    return made


def taylor():
    return {"taylor": torch.linspace(-1, 1, 192), "taylor_size": torch.linspace(0, 1, 192)}


@pytest.fixture
def spied(monkeypatch):
    """The names of what is read of a `SublayerView` from outside it."""
    found, inside = set(), []
    for attribute, name in {
        "inputs": "inputs",
        "targets": "outputs",
        "outputs": "outputs",
        "_moments": "grams",
    }.items():
        original = SublayerView.__dict__[attribute].func

        def seen(view, original=original, name=name):
            if not inside:
                found.add(name)
            inside.append(name)
            try:
                return original(view)
            finally:
                inside.pop()

        monkeypatch.setattr(SublayerView, attribute, property(seen))
    return found


@pytest.mark.parametrize("name", methods.METHODS)
def test_it_reads_what_it_says_and_saves_what_it_says(name, activations, spied):
    method, model = methods.get(name), activations.replay.model
    given = taylor() if "taylor" in method.statistics else {}
    saved = set()
    for kind in method.kinds:
        site = activations.anatomy.site(SITE_OF[kind])
        at = activations.view(site, 0, given)
        assert method.unsupported_reason(at) is None
        calls = _calls(model, site, 24)
        before, cached = _counted({path: model.get_submodule(path) for path in site.modules}, calls), _cached(model)
        for settings in method.options(at):
            replacement = method.build(at, settings)
            after = _counted(_in_place(model, site.modules, replacement), calls)
            saved |= {b for b in ("params", "bytes", "flops") if after.of(b) < 0.99 * before.of(b)}
            saved |= {"kv"} if _cached(model, replacement) < cached else set()
    assert spied == set(method.statistics) - {"stream", "taylor"}
    stated = {budget for budget in method.saves if (name, budget) not in AT_OTHER_LENGTHS} - {"latency"}
    if name in ("span", "fusegpt"):  # what else it saves is in the blocks it takes out
        stated, saved = stated & {"kv"}, saved & {"kv"}
    assert stated == saved, "packed weights count as what they encode"


@pytest.mark.parametrize(("name", "budget"), AT_OTHER_LENGTHS)
def test_what_is_saved_at_other_lengths_is_counted_there(name, budget, activations):
    method, model, tokens = methods.get(name), activations.replay.model, AT_OTHER_LENGTHS[name, budget]
    assert budget in method.saves
    site = activations.anatomy.site(SITE_OF[method.kinds[0]])
    at = activations.view(site, 0, {})
    calls = _calls(model, site, tokens)
    before = _counted({path: model.get_submodule(path) for path in site.modules}, calls)
    built = [_in_place(model, site.modules, method.build(at, settings)) for settings in method.options(at)]
    assert min(_counted(parts, calls).of(budget) for parts in built) < 0.99 * before.of(budget)


@pytest.mark.parametrize("name", [name for name in methods.METHODS if "latency" in methods.get(name).saves])
def test_latency_is_said_to_be_saved_where_work_or_reading_is_or_a_clock_has_shown_it(name):
    """FLOPs and bytes are counted above. What saves neither has a committed ratio to the original, below 1."""
    if {"flops", "bytes"} & set(methods.get(name).saves):
        return
    with CLOCKED.open(encoding="utf-8") as file:
        ratios = [float(row["latency_ratio"]) for row in csv.DictReader(file) if row["method"] == name]
    assert ratios, f"add it to benchmarks/latency_alone.py: {name} saves time alone, if at all"
    assert min(ratios) < 0.99, f"{name} has nowhere been faster: take latency out of its saves"


def _calls(model, site, tokens):
    inputs = {"input_ids": torch.arange(tokens)[None] % model.config.vocab_size, "use_cache": False}
    return capture_calls(model, site.modules, inputs)


def _cached(model, replacement=()):
    """Bytes that the model keeps of 24 tokens."""
    before = apply(model, list(replacement))
    try:
        return read(model, Shape("prefill", 1, 24)).kv_bytes
    finally:
        restore(model, before)


def _counted(parts, calls):
    def step():
        for path, module in parts.items():
            calls[path].step(module).run()

    return cost_of(parts, step, 0, StoredDtypes(torch.float32))


def _in_place(model, paths, replacement):
    before = apply(model, replacement)
    try:
        return {path: copy.deepcopy(model.get_submodule(path)) for path in paths}
    finally:
        restore(model, before)


def test_a_method_that_needs_gradients_has_them_taken():
    assert methods.reads(["drop", "width_taylor"], "taylor")
    others = set(methods.METHODS) - {"width_taylor", "adaptive_width", "taylor_moe"}
    assert not methods.reads(list(others), "taylor")


def test_an_unknown_method_is_told_where_all_are_listed():
    for wrong, near in (("widht", "'width'"), ("head", "'heads'")):
        with pytest.raises(UserError, match=f"{near}.*layersmith methods"):
            methods.get(wrong)
