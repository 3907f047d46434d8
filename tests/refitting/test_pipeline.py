"""The whole job on a tiny model: what it writes, that it survives being killed anywhere, and what it refuses."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from layersmith.errors import UserError
from layersmith.refitting.options import check_budget
from layersmith.refitting.pipeline import refit
from tests.refitting.conftest import VOCABULARY, tiny_llama
from tests.refitting.whole_run import BUDGET, METHODS, comparable, run


def test_result_holds_what_it_promises(finished):
    out, result = finished
    assert json.loads((out / "result.json").read_text()) == json.loads(json.dumps(result.to_json()))
    assert (out / "report.html").stat().st_size > 10_000
    assert result["schema"] == "layersmith.refit/2"
    chosen = result["chosen"]
    assert chosen["meets_budget"]
    assert chosen["measured"]["params"] <= BUDGET["params"] * result["baseline"]["params"]
    assert chosen["candidates"], "something has to change"
    assert result["reload_max_abs_diff"] <= 1e-4
    curve = [point["heldout_divergence"] for point in result["heal"]["curve"]]
    assert result["heal"]["rolled_back"] == (min(curve) == curve[0])
    for site in result["sites"]:
        if site["kind"] in ("ffn", "mixer", "block"):
            assert set(site["floors"]) == {"zero", "mean", "ridge_linear", "rank_r"}


def test_a_divergence_is_called_so_whatever_its_kind(finished):
    """For encoders it is a squared error, which no key may call a KL."""
    keys = set()

    def walk(value):
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(inner)
        keys.update(value if isinstance(value, dict) else ())

    walk(finished[1].to_json())
    assert "divergence" in keys
    assert not [key for key in keys if "kl" in key.split("_")]


def test_predicted_params_are_exact(finished):
    _, result = finished
    assert result["chosen"]["predicted"]["params"] == result["chosen"]["measured"]["params"]


def test_the_saved_model_is_the_measured_one(finished):
    out, result = finished
    model = AutoModelForCausalLM.from_pretrained(out / "model").eval()
    assert sum(p.numel() for p in model.parameters()) == result["chosen"]["measured"]["params"]
    ids = torch.arange(12)[None]
    generated = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
    uncached = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0, use_cache=False)
    assert torch.equal(generated, uncached)


def test_running_a_finished_run_again_changes_nothing(finished, text, tokenizer):
    """Asked for in other kinds of the same: fractions, NumPy's numbers, tuples, sets."""
    out, result = finished
    other = {"budget": {"params": Fraction(97, 100)}, "methods": tuple(METHODS), "sites": {"*"}, "seed": np.int64(0)}
    assert comparable(run(out, text, tokenizer, heal_tokens=np.int32(4096), **other)) == comparable(result)


def test_a_budget_that_cannot_be_met_names_the_best_reachable(tmp_path, text, tokenizer):
    with pytest.raises(UserError, match=r"cannot be met.*best reachable.*params=0\.\d+"):
        run(tmp_path / "run", text, tokenizer, budget={"params": 0.5}, methods=["kv_merge"])


def test_only_the_named_sites_change(tmp_path, text, tokenizer):
    with pytest.raises(UserError, match=r"No model has a site 'layers.1.fn'. Did you mean 'layers.1.ffn'"):
        run(tmp_path / "run", text, tokenizer, sites=["layers.0.ffn", "layers.1.fn"])
    assert not (tmp_path / "run").exists()
    result = run(tmp_path / "run", text, tokenizer, sites=["layers.1.f*n"], heal_tokens=0)
    assert {c["id"].split("/")[0] for c in result["candidates"]} == {"layers.1.ffn"}
    changed = {site for site, taken in result["chosen"]["choice"].items() if taken != "keep"}
    assert "layers.1.ffn" in changed
    assert changed <= {"layers.1.ffn", "layers.1.ffn_norm"}, "a dropped feed-forward takes its norm along"


@pytest.mark.parametrize("rate", [0.0, -1e-4, float("nan")])
def test_a_healing_rate_that_heals_nothing_is_refused(tmp_path, text, tokenizer, rate):
    with pytest.raises(UserError, match="healing rate must lie above 0"):
        run(tmp_path / "run", text, tokenizer, heal_lr=rate)


def test_a_loaded_model_stays_where_it_is(tmp_path, text, tokenizer):
    with pytest.raises(UserError, match="given by name"):
        run(tmp_path / "run", text, tokenizer, device="cpu")


def test_a_shape_the_model_does_not_run_at_is_refused_at_once(tmp_path, text, tokenizer):
    sizes = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    model, options = GPT2LMHeadModel(GPT2Config(**sizes)).eval(), {"budget": BUDGET, "progress": False}
    with pytest.raises(UserError, match="positions"):
        refit(model, out=tmp_path / "run", data=text, tokenizer=tokenizer, at="prefill=1x4096", **options)
    assert not (tmp_path / "run").exists()


def test_text_that_is_too_short(tmp_path, tokenizer):
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(UserError, match=r"too little text|too short"):
        run(tmp_path / "run", str(tmp_path / "short.txt"), tokenizer)
    assert not (tmp_path / "run").exists()


def test_a_model_that_yields_nan(tmp_path, text, tokenizer):
    model = tiny_llama(layers=2)
    model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="NaN"):
        refit(model, budget=BUDGET, out=tmp_path / "run", data=text, tokenizer=tokenizer, progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, "A budget is needed"),
        ({"speed": 0.5}, "Unknown budget 'speed'"),
        ({"latency": 1.5}, "above 0 and at most 1"),
        ({"latency": 0.0}, "above 0 and at most 1"),
        ({"latency": float("nan")}, "above 0 and at most 1"),
    ],
)
def test_bad_budgets(budget, message):
    with pytest.raises(UserError, match=message):
        check_budget(budget)


def test_the_whole_job_at_a_decode_shape(tmp_path, text, tokenizer, clock_watch):
    """Every stage runs where caches are read and written, and nothing is put into a model while the clock runs."""
    methods = ["width", "kv_merge", "drop", "linear_attention"]
    budget = {"params": 0.97, "kv": 0.8, "latency": 1.0}
    result = run(tmp_path / "run", text, tokenizer, budget=budget, methods=methods, at="decode=1x32", heal_tokens=0)
    assert clock_watch.runs > 100
    assert clock_watch.swaps == 0
    chosen = result["chosen"]
    for name in ("params", "bytes", "flops", "kv_bytes"):
        assert chosen["predicted"][name] == chosen["unhealed"][name] == chosen["measured"][name], name
    assert chosen["measured"]["kv_bytes"] <= 0.8 * result["baseline"]["kv_bytes"]
    assert {c["id"].split("/")[1] for c in result["candidates"] if c["kv_bytes"] is not None} >= {"kv_merge", "drop"}
    for entry in result["uniform"]:
        assert entry["meets_budget"] == (entry["reach"] is None) == (entry["measured"] is not None)
    assert {"width ffn", "kv_merge mixer"} <= {entry["label"] for entry in result["uniform"]}
    assert any(entry["reach"] for entry in result["uniform"])
