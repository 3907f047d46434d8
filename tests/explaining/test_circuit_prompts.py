"""The prompts of `circuit` and its runs: pairs, tasks, bad input, all shapes of models, interruption."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from layersmith.anatomy.edit import Edit, apply
from layersmith.errors import UserError
from layersmith.explaining.circuits import acdc
from layersmith.explaining.circuits.prompts import Encoder, Pair, Prompts
from layersmith.explaining.circuits.tasks import TASKS, draw
from layersmith.explaining.pipeline import explain
from layersmith.linear.int8_dynamic import Int8Dynamic
from tests.explaining.conftest import VOCABULARY, tiny


def test_answers_of_several_tokens_are_summed() -> None:
    marks = [torch.tensor([[True, True, False]]), torch.tensor([[False, False, True]])]
    prompts = Prompts({}, {}, torch.tensor([0]), *marks)
    logits = torch.tensor([[0.2, 0.3, 0.5]]).log() + 7.0
    assert float(prompts.log_odds(logits)) == pytest.approx(0.0, abs=1e-6)


def test_a_map_to_logits_in_a_number_format_has_a_vocabulary(llama, tokenizer) -> None:
    part = Int8Dynamic.from_weight(llama.lm_head.weight)
    apply(llama, [(Edit("lm_head", part.spec(), {}), part)])
    encoder = Encoder(llama, tokenizer, torch.device("cpu"))
    (batch,) = encoder.batches([Pair("import os, re", "import os, os", ("\n",), (".", ","))])
    assert batch.right.shape == (1, VOCABULARY)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_pairs_for_a_trained_tokenizer(task, pocket, tokenizer) -> None:
    encoder = Encoder(pocket, tokenizer, torch.device("cpu"))
    drawn = [pair for pair, _ in zip(draw(task, 0), range(400), strict=False)]
    batches = encoder.longest_group(drawn, 12)
    assert sum(len(batch.where) for batch in batches) >= 2
    for batch in batches:
        assert batch.clean["input_ids"].shape == batch.corrupt["input_ids"].shape
        assert not (batch.right & batch.wrong).any()
        assert (batch.clean["input_ids"] != batch.corrupt["input_ids"]).any(1).all()
    assert drawn[0] == next(draw(task, 0))
    assert drawn[0] != next(draw(task, 1))


def pairs_file(folder, lines) -> str:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(line) if isinstance(line, dict) else line for line in lines))
    return str(path)


GOOD = {"clean": "import os, re", "corrupt": "import os, os", "answer": "\n", "wrong": [".", ","]}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({**GOOD, "corrupt": "import os"}, "as long in tokens"),
        ({**GOOD, "wrong": "\n"}, "begin with the same token"),
        ({"clean": "a"}, "JSON object with clean, corrupt, answer, wrong; line 1|line 1 of"),
        ({**GOOD, "answer": []}, "none of them empty"),
        ("[1]", "line 1 of"),
        ("", "hold no pair"),
    ],
)
def test_prompts_that_are_none_are_told_in_words(line, told, llama, tokenizer, tmp_path) -> None:
    settings = {"prompts": pairs_file(tmp_path, [line])}
    with pytest.raises(UserError, match=told):
        run(llama, tokenizer, tmp_path / "o", settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"task": "inductoin"}, "Did you mean 'induction'"),
        ({"ablation": "none"}, "resample, mean, zero"),
        ({"pairs": 1}, "at least 2"),
        ({"faithful": 0.0}, "share above 0"),
        ({"prompts": "no/such/file.jsonl"}, "cannot be read"),
    ],
)
def test_wrong_settings_are_told_in_words(settings, told, llama, tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match=told):
        run(llama, tokenizer, tmp_path / "o", settings)


def run(model, tokenizer, out, settings):
    return explain(model, tool="circuit", tokenizer=tokenizer, tokens=256, progress=False, out=out, settings=settings)


@pytest.mark.parametrize("shape", ["llama", "gpt2", "t5"])
def test_every_shape_of_model_that_answers_with_tokens(shape, tokenizer, tmp_path) -> None:
    prompts = pairs_file(tmp_path, [GOOD, {**GOOD, "clean": "import io, re"}])
    settings = {"prompts": prompts, "steps": 2, "random": 1, "acdc": True, "threshold": 0.05}
    found = run(tiny(shape), tokenizer, tmp_path / "o", settings)["survey"]
    assert found["pairs"] == 2
    titles = [section["title"] for section in found["sections"]]
    if shape == "t5":
        assert "several stacks" in found["no_graph"]
        assert "No edges are shown" in found["sections"][0]["text"]
        assert len(titles) == 1
        return
    assert "Faithfulness against size" in titles
    assert found["curve"][-2]["edges"] == found["edges"]
    assert found["curve"][-2]["faithfulness"] == pytest.approx(1.0, abs=1e-3)
    assert found["curve"][-2]["without"] == pytest.approx(0.0, abs=1e-3)
    # embed to 12 inputs of heads and a feed-forward, and so on: 12 * 1 + 1 * 5 + 12 * 6 + 1 * 10, and 11 to the logits
    assert found["edges"] == 110
    page = (tmp_path / "o" / "report.html").read_text()
    assert "Faithfulness against size" in page
    assert [len(stage) for stage in found["nodes"]] == [1, 4, 1, 4, 1, 1]
    nodes = {node for stage in found["nodes"] for node in stage}
    drawn = [section["graph"] for section in found["sections"] if "graph" in section]
    assert drawn
    for graph in drawn:
        assert {node for edge in graph["edges"] for node in edge[:2]} <= nodes
    if found["acdc"]:
        assert 'class="edge ' in page


@pytest.mark.parametrize(
    ("shape", "told"), [("bert", "does not say where|no mask|language model"), ("vit", "language")]
)
def test_models_that_answer_no_prompt_are_refused(shape, told, tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match=told):
        run(tiny(shape), None if shape == "vit" else tokenizer, tmp_path / "o", {})


def masked_tokenizer() -> tf.PreTrainedTokenizerFast:
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]", "cls_token": "[CLS]"}
    words = [*special.values(), "the", "cat", "dog", "sat", "ran", "on", "mat"]
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 3)])
    return tf.PreTrainedTokenizerFast(tokenizer_object=made, **special)


MASKED = [
    {"clean": "the cat sat on [MASK]", "corrupt": "the dog sat on [MASK]", "answer": "mat", "wrong": "ran"},
    {"clean": "[MASK] cat sat on mat", "corrupt": "[MASK] dog ran on mat", "answer": ["the"], "wrong": ["on", "mat"]},
]


@pytest.mark.parametrize("shape", ["bert", "roberta"])
def test_a_masked_model_is_asked_at_the_mask(shape, tmp_path) -> None:
    """Masks at different places of one batch; edges where the norms leave the stream alone (here RoBERTa's)."""
    model, tokenizer = tiny(shape), masked_tokenizer()
    settings = {"prompts": pairs_file(tmp_path, MASKED), "steps": 2, "random": 1, "acdc": True, "threshold": 0.05}
    found = run(model, tokenizer, tmp_path / "o", settings)["survey"]
    for side in ("clean", "corrupt"):
        expected = []
        for pair, place, right, wrong in zip(MASKED, (5, 1), ([10], [4]), ([8], [9, 10]), strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([tokenizer(pair[side])["input_ids"]])).logits[0, place]
            expected.append(float(logits[right].logsumexp(0) - logits[wrong].logsumexp(0)))
        assert found["log_odds"][side] == pytest.approx(sum(expected) / 2, abs=1e-4)
    assert found["patching"]["layers.1"]["resample"] == pytest.approx(0.0, abs=1e-3)
    assert found["patching"]["layers.1"]["restored"] == pytest.approx(1.0, abs=1e-3)
    if shape == "bert":
        assert "Post-LN" in found["no_graph"]
        return
    assert found["edges"] == 110
    assert found["graph_odds"]["all"] == pytest.approx(found["log_odds"]["clean"], abs=1e-3)
    assert found["graph_odds"]["none"] == pytest.approx(found["log_odds"]["corrupt"], abs=1e-3)


def test_a_masked_prompt_without_a_mask_and_a_task_of_texts_to_go_on_with_are_refused(tmp_path) -> None:
    model, tokenizer = tiny("bert"), masked_tokenizer()
    prompts = pairs_file(tmp_path, [{**MASKED[0], "clean": "the cat sat on mat"}])
    with pytest.raises(UserError, match="does not say where the answer stands"):
        run(model, tokenizer, tmp_path / "o", {"prompts": prompts})
    with pytest.raises(UserError, match="fills in a mask"):
        run(model, tokenizer, tmp_path / "o", {"task": "names"})


def test_an_interrupted_search_goes_on(llama, tokenizer, tmp_path, monkeypatch) -> None:
    settings = {"prompts": pairs_file(tmp_path, [GOOD]), "steps": 1, "random": 1, "acdc": True}
    whole = run(llama, tokenizer, tmp_path / "whole", settings)["survey"]
    calls = []
    prune = acdc.prune_reader

    def fails(*arguments, **options):
        calls.append(arguments[4])
        if len(calls) == 10:
            raise KeyboardInterrupt
        return prune(*arguments, **options)

    monkeypatch.setattr(acdc, "prune_reader", fails)
    with pytest.raises(KeyboardInterrupt):
        run(llama, tokenizer, tmp_path / "o", settings)
    assert run(llama, tokenizer, tmp_path / "o", settings)["survey"] == whole
    assert calls[10] == calls[9]  # it went on at the reader it was at
    assert len(calls) == len(set(calls)) + 1


def test_a_pair_is_read_as_it_stands(pocket, tokenizer) -> None:
    encoder = Encoder(pocket, tokenizer, torch.device("cpu"))
    (batch,) = encoder.batches([Pair("import os, re", "import os, os", ("\n",), (".",))])
    assert tokenizer.decode(batch.clean["input_ids"][0]) == "import os, re"
    assert int(batch.where) == batch.clean["input_ids"].shape[1] - 1
    assert tokenizer.decode(batch.wrong[0].nonzero()[0]) == "."
