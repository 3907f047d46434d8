"""The whole job on a tiny model: what it writes, that it survives being killed anywhere, and what it refuses."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

import layersmith.pocket
from layersmith import checkpoint
from layersmith.errors import UserError
from layersmith.refitting.build import block_library as library
from layersmith.refitting.options import check_budget
from layersmith.refitting.pipeline import refit
from layersmith.refitting.prove import finish as finishing
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import tiny_llama
from tests.runs.dying import DAMAGES, Dying, Killed, damage

METHODS = ["width", "kv_merge"]
#: Latency is measured and differs from run to run; a params budget makes whole runs comparable.
BUDGET = {"params": 0.97}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A few hundred short, varied paragraphs."""
    rng = random.Random(0)
    words = ["stream", "of", "tokens", "block", "adds", "what", "it", "knows", "before", "passing", "on", "the"]
    paragraphs = [" ".join(rng.choice(words) for _ in range(40)) + f" number {i}." for i in range(400)]
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text("\n\n".join(paragraphs))
    return str(path)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(layersmith.pocket.path())


def run(out, text, tokenizer, **changes):
    options = {"budget": BUDGET, "methods": METHODS, "at": "prefill=1x32", "heal_tokens": 4096, "progress": False}
    return refit(tiny_llama(layers=2), out=out, data=text, tokenizer=tokenizer, **{**options, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text, tokenizer):
    out = tmp_path_factory.mktemp("finished") / "run"
    return out, run(out, text, tokenizer)


def comparable(result):
    """What must be equal between two runs: everything that is not a time."""
    return {
        "chosen": result["chosen"]["candidates"],
        "unhealed": result["chosen"]["unhealed"]["kl"],
        "healed": result["chosen"]["measured"]["kl"],
        "params": result["chosen"]["measured"]["params"],
        "scores": {c["id"]: c["kl"] for c in result["candidates"]},
        "curve": result["heal"]["curve"],
    }


def test_result_holds_what_it_promises(finished):
    out, result = finished
    assert json.loads((out / "result.json").read_text()) == json.loads(json.dumps(result))
    assert (out / "report.html").stat().st_size > 10_000
    assert result["schema"] == "layersmith.refit/1"
    chosen = result["chosen"]
    assert chosen["meets_budget"]
    assert chosen["measured"]["params"] <= BUDGET["params"] * result["baseline"]["params"]
    assert chosen["candidates"], "something has to change"
    assert result["reload_max_abs_diff"] <= 1e-4
    curve = [point["heldout_kl"] for point in result["heal"]["curve"]]
    assert result["heal"]["rolled_back"] == (min(curve) == curve[0])
    for site in result["sites"]:
        if site["kind"] in ("ffn", "mixer", "block"):
            assert set(site["floors"]) == {"zero", "mean", "ridge_linear", "rank_r"}


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
    out, result = finished
    assert comparable(run(out, text, tokenizer)) == comparable(result)


def campaign(finished, out, monkeypatch, job, seed):
    """Start the run again and again, each time killed after a while, until it ends.

    Only the times of its stages, written again each time, take half as many file operations as the longest while.
    """
    rng = random.Random(seed)
    monkeypatch.setattr(checkpoint, "verify_reload", lambda *inputs: 0.0)  # seconds in another process, each time
    kills, result = 0, None
    while result is None:
        with monkeypatch.context() as patched:
            Dying(patched, rng.randrange(120))
            try:
                result = run(out, *job)
            except Killed:
                kills += 1
                assert not (out / "result.json").exists()
    assert kills > 3, "it was hardly disturbed"
    assert comparable(result) == comparable(finished[1])


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.real) for seed in range(1, 9))])
def test_killed_anywhere_it_goes_on_and_ends_the_same(finished, tmp_path, text, tokenizer, monkeypatch, seed, relative):
    """At any file operation, half of a file written; with the README's own relative OUT too."""
    monkeypatch.chdir(tmp_path)
    out = Path("run") if relative else tmp_path / "run"
    campaign(finished, out, monkeypatch, (text, tokenizer), seed)


@pytest.fixture
def copied(finished, tmp_path, monkeypatch):
    """A finished run that may be damaged; and it is not reloaded in another process every time."""
    monkeypatch.setattr(checkpoint, "verify_reload", lambda *inputs: 0.0)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished[0], "run")
    return Path("run")


def kept_files(out):
    """Every file of the workspace but run.json, whose damage is refused (tests/refitting/test_workspace.py)."""
    files = sorted(p for p in (out / "workspace").rglob("*") if p.is_file() and p.name not in ("lock", "run.json"))
    assert len(files) > 200
    return files


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_damaged_files_are_built_again(finished, copied, text, tokenizer, share):
    """Any part of them at once, checksums included."""
    rng = random.Random(int(100 * share))
    files = kept_files(copied)
    for path in rng.sample(files, int(share * len(files))):
        damage(path, rng.choice(DAMAGES))
    assert comparable(run(copied, text, tokenizer)) == comparable(finished[1])


@pytest.mark.real  # two minutes
def test_each_file_damaged_alone_is_built_again(finished, copied, text, tokenizer):
    rng = random.Random(0)
    for path in kept_files(copied):
        if path.exists():
            damage(path, rng.choice(DAMAGES))
            assert comparable(run(copied, text, tokenizer)) == comparable(finished[1]), path


def test_another_choice_never_meets_the_figures_of_this_one(finished, copied, text, tokenizer):
    """A search that was interrupted or damaged may choose another mix the next time."""
    workspace = Workspace.joined(copied)
    selection = workspace.load_json("selection")
    other = {**selection, "chosen": selection["chosen"][1:]}
    workspace.save_json("selection", other)
    result = run(copied, text, tokenizer)
    assert result["chosen"]["candidates"] == other["chosen"]
    measured = result["chosen"]["measured"]
    assert measured["params"] == result["chosen"]["predicted"]["params"] != finished[1]["chosen"]["measured"]["params"]
    assert result["heal"]["curve"] != finished[1]["heal"]["curve"]
    assert result["chosen"]["unhealed"] != finished[1]["chosen"]["unhealed"]
    workspace.save_json("selection", selection)
    assert comparable(run(copied, text, tokenizer)) == comparable(finished[1])


def test_a_healed_baseline_is_kept_under_its_own_choice(finished, tmp_path, text, tokenizer, monkeypatch):
    monkeypatch.setattr(checkpoint, "verify_reload", lambda *inputs: 0.0)
    options = {"reuse": finished[0], "heal_baseline": True, "heal_tokens": 2048}
    first, again = (run(tmp_path / "run", text, tokenizer, **options) for _ in range(2))
    healed = [u for u in first["uniform"] if u["healed"]]
    assert len(healed) == 1
    assert healed[0]["healed"]["kl"] != healed[0]["measured"]["kl"]
    assert again["uniform"] == first["uniform"]
    names = {path.parent.name for path in (tmp_path / "run" / "workspace").glob("heal*/*.s*")}
    assert names == {"heal", "healed-uniform"}, "and the baseline's checkpoint is gone"


def test_another_model_or_text_is_another_run(finished, tmp_path, text, tokenizer):
    """The weights alone do not make the model, nor a path the text."""
    out = finished[0]
    before = (out / "result.json").read_bytes()
    model = tiny_llama(layers=2)
    model.config.rms_norm_eps = 1e-5
    options = {"budget": BUDGET, "methods": METHODS, "at": "prefill=1x32", "heal_tokens": 4096, "progress": False}
    with pytest.raises(UserError, match=r"another run .*rms_norm_eps \(was 1e-06, is 1e-05\)"):
        refit(model, out=out, data=text, tokenizer=tokenizer, **options)
    with pytest.raises(UserError, match=r"cannot be reused.*rms_norm_eps"):
        refit(model, out=tmp_path / "run", data=text, tokenizer=tokenizer, reuse=out, **options)
    original = Path(text).read_text()
    try:
        Path(text).write_text(original.replace("tokens", "letters"))
        with pytest.raises(UserError, match=r"another run .*the text that is read"):
            run(out, text, tokenizer)
        with pytest.raises(UserError, match=r"cannot be reused.*the text that is read"):
            run(tmp_path / "run", text, tokenizer, reuse=out)
    finally:
        Path(text).write_text(original)
    assert (out / "result.json").read_bytes() == before
    assert not (tmp_path / "run").exists()


def test_the_same_text_elsewhere_is_the_same_run(finished, copied, tmp_path, text, tokenizer, monkeypatch):
    shutil.copy(text, tmp_path / "again.txt")
    built = []
    monkeypatch.setattr(library, "_build", lambda *inputs: built.append(inputs))
    assert comparable(run(copied, str(tmp_path / "again.txt"), tokenizer)) == comparable(finished[1])
    assert not built


def test_a_full_disk_is_one_sentence_whoever_meets_it(tmp_path, text, tokenizer, monkeypatch):
    def full(*args, **kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(finishing.checkpoint, "save_result", full)
    with pytest.raises(UserError, match=r"no space left.*finished work is kept"):
        run(tmp_path / "run", text, tokenizer, heal_tokens=0, sites=["layers.1.ffn"])
    assert (tmp_path / "run" / "workspace" / "selection.json").exists()


def test_a_budget_that_cannot_be_met_names_the_best_reachable(tmp_path, text, tokenizer):
    with pytest.raises(UserError, match=r"cannot be met.*best reachable.*params=0\.\d+"):
        run(tmp_path / "run", text, tokenizer, budget={"params": 0.5}, methods=["kv_merge"])


def test_another_run_in_the_folder_is_refused(finished, text, tokenizer):
    with pytest.raises(UserError, match="holds another run"):
        run(finished[0], text, tokenizer, budget={"params": 0.9})


def test_another_budget_reuses_what_does_not_depend_on_it(finished, tmp_path, text, tokenizer, monkeypatch):
    changes = {"budget": {"params": 0.95}, "heal_tokens": 2048}
    fresh = run(tmp_path / "fresh", text, tokenizer, **changes)
    built = []
    monkeypatch.setattr(library, "_build", lambda *inputs: built.append(inputs))
    again = run(tmp_path / "again", text, tokenizer, reuse=finished[0], **changes)
    assert not built
    assert comparable(again) == comparable(fresh)


def test_a_run_of_another_make_is_not_reused(finished, tmp_path, text, tokenizer):
    with pytest.raises(UserError, match=r"differs in methods \("):
        run(tmp_path / "run", text, tokenizer, reuse=finished[0], methods=["width"])
    with pytest.raises(UserError, match="holds no layersmith run"):
        run(tmp_path / "run", text, tokenizer, reuse=tmp_path / "nowhere")
    assert not (tmp_path / "run").exists()


def test_only_the_named_sites_change(tmp_path, text, tokenizer):
    with pytest.raises(UserError, match=r"No site matches 'layers.1.fn'. Did you mean 'layers.1.ffn'"):
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
