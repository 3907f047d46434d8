"""Tasks of lm-evaluation-harness: what is refused, what is read off its report, and one real task where it is there."""

import json
import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from layersmith import names
from layersmith.errors import MissingExtra, UserError
from layersmith.measuring import harness
from layersmith.measuring.compare import measure
from tests.commands.conftest import run as run

REPORT = {"results": {"arc_easy": {"alias": "arc_easy", "acc,none": 0.5, "acc_stderr,none": 0.1, "sample_len": 7}}}


@pytest.fixture
def fake(monkeypatch):
    """Stands in for the harness; holds what it was asked."""
    seen = {}

    def simple_evaluate(model, **options):
        seen.update(options, model=model)
        if options["tasks"] == ["no_such"]:
            raise ValueError("Tasks not found: no_such.")
        return REPORT

    module, models = ModuleType("lm_eval"), ModuleType("lm_eval.models.huggingface")
    module.simple_evaluate = simple_evaluate
    models.HFLM = lambda **options: SimpleNamespace(**options)
    monkeypatch.setitem(sys.modules, "lm_eval", module)
    monkeypatch.setitem(sys.modules, "lm_eval.models", ModuleType("lm_eval.models"))
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", models)
    monkeypatch.setattr(names, "find_spec", lambda name: object())
    return seen


def test_numbers_are_read_and_nothing_else(fake, tiny, tokenizer):
    assert harness.scores(tiny, tokenizer, ["arc_easy"], limit=3) == {"arc_easy": {"acc": 0.5, "acc_stderr": 0.1}}
    assert fake["limit"] == 3
    assert fake["model"].pretrained is tiny


def test_measure_holds_the_scores_of_both(fake, tiny, tokenizer):
    found = measure(
        tiny, tiny, tokenizer=tokenizer, data="random", at="prefill=1x8", windows=1, rounds=1, tasks=["arc_easy"]
    )
    assert found["model"]["tasks"] == found["against"]["tasks"] == {"arc_easy": {"acc": 0.5, "acc_stderr": 0.1}}


def test_without_tasks_there_are_none(tiny):
    assert measure(tiny, data="random", at="prefill=1x8", windows=1, rounds=1)["model"]["tasks"] is None


def test_what_the_harness_raises_is_one_paragraph(fake, tiny, tokenizer):
    with pytest.raises(UserError, match="could not score no_such: Tasks not found"):
        harness.scores(tiny, tokenizer, ["no_such"])


def test_refused_at_once(monkeypatch, run):
    monkeypatch.setattr(names, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"\[tasks\]"):
        names.check_tasks(["arc_easy"])
    with pytest.raises(UserError, match=r"no task file at 'a\.yaml'"):
        names.check_tasks(["a.yaml"])
    status, _, err = run("measure", "pocket", "--tasks", "arc_easy")
    assert status == 2
    assert "lm_eval" in err


@pytest.mark.real
def test_the_harness_itself_scores_a_task_of_ours(tiny, tokenizer, tmp_path):
    """Two choices a question; the harness's accuracy is that of log-likelihoods computed here."""
    pytest.importorskip("lm_eval")
    questions = [{"q": f"the number {i}", "a": " even" if i % 2 == 0 else " odd", "label": 0} for i in range(6)]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps(each) for each in questions))
    task = tmp_path / "parity.yaml"
    task.write_text(
        f"task: parity\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\n"
        "output_type: multiple_choice\ntest_split: test\ndoc_to_text: '{{q}}'\ndoc_to_target: label\n"
        "doc_to_choice: '{{[a, \" neither\"]}}'\nmetric_list:\n  - metric: acc\n"
    )
    [found] = harness.scores(tiny, tokenizer, [str(task)]).values()

    def likelihood(context, answer):
        start, ids = (
            tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
            for text in (context, context + answer)
        )
        with torch.no_grad():
            logits = tiny(ids).logits.log_softmax(-1)[0]
        return sum(float(logits[i - 1, ids[0, i]]) for i in range(start.shape[1], ids.shape[1]))

    right = [likelihood(each["q"], each["a"]) > likelihood(each["q"], " neither") for each in questions]
    assert math.isclose(found["acc"], sum(right) / len(right))
