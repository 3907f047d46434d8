"""A run that is killed anywhere, damaged, or given another model or text: it goes on, is built again, or is refused."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from layersmith import checkpoint
from layersmith.errors import UserError
from layersmith.refitting.build import block_library as library
from layersmith.refitting.method import candidate_id
from layersmith.refitting.pipeline import refit
from layersmith.refitting.prove import finish as finishing
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import tiny_llama
from tests.refitting.whole_run import BUDGET, METHODS, comparable, run
from tests.runs.dying import DAMAGES, Dying, Killed, damage


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


#: (seed, whether OUT is relative); more of them where there is time.
CAMPAIGNS = [(0, True), (0, False), *((seed, relative) for seed in range(1, 8) for relative in (False, True))]


@pytest.mark.parametrize(
    ("seed", "relative"), [CAMPAIGNS[0], *(pytest.param(*one, marks=pytest.mark.real) for one in CAMPAIGNS[1:])]
)
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


@pytest.mark.parametrize("share", [0.05, *(pytest.param(share, marks=pytest.mark.real) for share in (0.5, 1.0))])
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


@pytest.mark.real
def test_a_healed_baseline_is_kept_under_its_own_choice(finished, tmp_path, text, tokenizer, monkeypatch):
    monkeypatch.setattr(checkpoint, "verify_reload", lambda *inputs: 0.0)
    options = {"reuse": finished[0], "heal_baseline": True, "heal_tokens": 8192}
    first, again = (run(tmp_path / "run", text, tokenizer, **options) for _ in range(2))
    healed = [u for u in first["uniform"] if u["healed"]]
    assert len(healed) == 1
    assert healed[0]["healed"]["divergence"] != healed[0]["measured"]["divergence"]
    assert again["uniform"] == first["uniform"]
    names = {path.parent.name for path in (tmp_path / "run" / "workspace").glob("heal*/*.s*")}
    assert names == {"healed", "healed-uniform"}, "and the checkpoints are gone"


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


def halved_positions(model):
    model.model.rotary_emb.inv_freq.mul_(0.5)


def wider_attention(model):
    for layer in model.model.layers:
        layer.self_attn.scaling *= 0.5


def hooked(model):
    model.model.layers[0].register_forward_hook(lambda module, args, output: output * 1.5)


@pytest.mark.parametrize("change", [halved_positions, wider_attention, hooked])
def test_what_no_file_of_a_model_says_makes_another_run_too(finished, tmp_path, text, tokenizer, change):
    """Its weights, config and text are the same ones; its answers are not."""
    out = finished[0]
    before = (out / "result.json").read_bytes()
    model = tiny_llama(layers=2)
    change(model)
    options = {"budget": BUDGET, "methods": METHODS, "at": "prefill=1x32", "heal_tokens": 4096, "progress": False}
    for place in ({"out": out}, {"out": tmp_path / "run", "reuse": out}):
        with pytest.raises(UserError, match=r"holds another run: its model has the same weights and config, and does"):
            refit(model, data=text, tokenizer=tokenizer, **place, **options)
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


def test_another_run_in_the_folder_is_refused(finished, text, tokenizer):
    with pytest.raises(UserError, match="holds another run"):
        run(finished[0], text, tokenizer, budget={"params": 0.9})


@pytest.mark.real
def test_another_budget_reuses_what_does_not_depend_on_it(finished, tmp_path, text, tokenizer, monkeypatch):
    changes = {"budget": {"params": 0.95}, "heal_tokens": 2048}
    fresh = run(tmp_path / "fresh", text, tokenizer, **changes)
    built, real = [], library._build

    def build(view, method, chosen, settings):
        built.append(f"library/{candidate_id(view.site.name, method.name, chosen)}")
        return real(view, method, chosen, settings)

    monkeypatch.setattr(library, "_build", build)
    again = run(tmp_path / "again", text, tokenizer, reuse=finished[0], **changes)
    assert comparable(again) == comparable(fresh)
    cleared = Workspace.joined(finished[0]).load_json("cleared")
    assert sorted(["calibration", *built]) == sorted(cleared), "what was cleared is built again, and nothing else"


def test_a_finished_run_has_cleared_away_what_running_it_again_does_not_need(finished, copied, text, tokenizer):
    out, result = copied, finished[1]
    workspace = Workspace.joined(out)
    cleared = set(workspace.load_json("cleared"))
    chosen = set(result["chosen"]["candidates"])
    for candidate in result["candidates"]:
        name = f"library/{candidate['id']}"
        assert (name in cleared) == (not workspace.has_tensors(name))
        assert (name in cleared) == (candidate["divergence"] is None and candidate["id"] not in chosen)
        assert workspace.load_json(name) is not None
    assert not (out / "workspace" / "calibration").exists()
    assert not (out / "workspace" / "heal").exists()
    assert comparable(run(out, text, tokenizer)) == comparable(result)
    assert not (out / "workspace" / "calibration").exists(), "and running it again makes none of it"


@pytest.mark.parametrize("lost", ["costs", "selection", "scores", "variants"])
def test_what_is_damaged_after_the_end_is_made_again_from_what_was_cleared(finished, copied, text, tokenizer, lost):
    workspace = Path(copied) / "workspace"
    files = [workspace / f"{lost}.json"] if lost in ("costs", "selection") else [*(workspace / lost).rglob("*.json")]
    assert files
    for path in files:
        path.write_text("{}")
    assert comparable(run(copied, text, tokenizer)) == comparable(finished[1])


@pytest.mark.parametrize("lost", ["model", "report.html", "result.json"])
def test_what_a_finished_run_wrote_is_written_again_where_it_is_gone(finished, copied, text, tokenizer, lost):
    before = load_file(copied / "model" / "model.safetensors")
    shutil.rmtree(copied / lost) if lost == "model" else (copied / lost).unlink()
    assert comparable(run(copied, text, tokenizer)) == comparable(finished[1])
    again = load_file(copied / "model" / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in before.items())
    assert (copied / lost).exists()


@pytest.mark.parametrize("change", ["weights", "config", "another file"])
def test_a_result_that_was_changed_where_it_lies_is_not_written_over(copied, text, tokenizer, change):
    """Somebody trained it further, in place; running the same command again used to undo that without a word."""
    model = copied / "model"
    if change == "config":
        (model / "config.json").write_text((model / "config.json").read_text() + " ")
    elif change == "weights":
        weights = load_file(model / "model.safetensors")
        save_file({name: tensor + 1 for name, tensor in weights.items()}, model / "model.safetensors")
    else:
        (model / "adapter.safetensors").write_bytes(b"hours of training")
    before = {path: path.read_bytes() for path in model.iterdir()}
    with pytest.raises(UserError, match=r"no longer the model that this run saved: .* Move it away"):
        run(copied, text, tokenizer)
    assert {path: path.read_bytes() for path in model.iterdir()} == before
    model.rename(copied / "mine")
    run(copied, text, tokenizer)
    assert {path.name: path.read_bytes() for path in (copied / "mine").iterdir()} == {
        p.name: b for p, b in before.items()
    }


def test_a_run_of_another_make_is_not_reused(finished, tmp_path, text, tokenizer):
    with pytest.raises(UserError, match=r"differs in methods \("):
        run(tmp_path / "run", text, tokenizer, reuse=finished[0], methods=["width"])
    with pytest.raises(UserError, match="holds no layersmith run"):
        run(tmp_path / "run", text, tokenizer, reuse=tmp_path / "nowhere")
    assert not (tmp_path / "run").exists()
