"""Features in words as part of a run: an oracle and planted features, a model of this machine, interruption, slips."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as tf

from layersmith.errors import UserError
from layersmith.explaining import dictionary, options
from layersmith.explaining.pipeline import explain
from layersmith.explaining.sections import IN_WORDS
from layersmith.explaining.texts import read
from layersmith.explaining.wording import endpoint as asking
from layersmith.explaining.wording import local, scoring
from layersmith.explaining.wording.endpoint import KEY
from layersmith.explaining.wording.prompts import LINE_TOKENS
from layersmith.ffn.sparse_dictionary import SparseDictionary
from tests.explaining.conftest import SIZES, VOCABULARY, tiny
from tests.explaining.endpoint import Endpoint, oracle, serving

#: What enters the first attention is a normed embedding: it tells the token, and nothing else.
SITE = "layers.0.attn"
TOKENS = 1024
SETTINGS = {"expansion": 2, "k": 4, "steps": 3}


@pytest.fixture
def planted(llama, tokenizer, monkeypatch) -> list[int]:
    """The tokens that the features of every dictionary fire on, one each: words, and among the most frequent."""
    texts = read(llama, tokenizer, "stdlib", TOKENS, 0)
    counts = torch.cat([batch["input_ids"].flatten() for batch in (*texts.fit, *texts.judge)]).bincount()
    frequent = counts.argsort(descending=True).tolist()
    tokens = [token for token in frequent if tokenizer.decode([token]).strip().isalpha()][:3]
    embedded = llama.model.layers[0].input_layernorm(llama.model.embed_tokens.weight).detach()

    def train(stream, recipe, tell) -> SparseDictionary:
        made = SparseDictionary(embedded.shape[1], len(tokens), 1, "relu")
        with torch.no_grad():
            length = embedded[tokens].norm(dim=-1)
            made.encoder.weight.copy_(embedded[tokens] / length[:, None])
            made.encoder.bias.copy_(-0.95 * length)
        return made.eval().requires_grad_(False)

    monkeypatch.setattr(dictionary, "train", train)
    monkeypatch.setattr(asking, "PAUSES", ())
    return tokens


def run(model, tokenizer, out, **given):
    fixed = {"tool": "dictionary", "sites": SITE, "settings": SETTINGS, "tokens": TOKENS, "progress": False}
    return explain(model, tokenizer=tokenizer, out=out, **{**fixed, **given})


def asked_of(server: Endpoint, **given) -> dict:
    return {"words_by": server.address, "words_model": "oracle", **given}


def worded(result) -> list[dict]:
    return [page["words"] for page in result["sites"][0]["pages"]["features"] if "words" in page]


def test_planted_features_are_named_and_score_1(planted, llama, tokenizer, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv(KEY, "sk-secret-of-the-user")
    with serving(oracle) as server:
        result = run(llama, tokenizer, tmp_path / "o", progress=True, **asked_of(server))
        told = capsys.readouterr()
        first = list(server.asked)
        again = run(llama, tokenizer, tmp_path / "o", **asked_of(server))
    words = worded(result)
    assert {found["sentence"] for found in words} == {
        f"The token {json.dumps(tokenizer.decode([t]))}." for t in planted
    }
    for found in words:
        assert found["score"]["correlation"] == pytest.approx(1.0, abs=1e-3)  # equal tokens, equal codes, but for sums
        assert found["control"]["correlation"] is None or found["control"]["correlation"] < 0.3
        assert found["score"]["unreadable"] == {}
        assert found["by"] == f"oracle at {server.address}"
        assert {passage["from"] for passage in found["held_out"]} >= {"top"}
    assert len(first) == len(set(first)), "nothing is asked twice"
    sentences = [found["sentence"] for found in words]
    foretold = {
        (sentence, tuple(passage["ids"]))
        for found, other in zip(words, sentences[1:] + sentences[:1], strict=True)
        for passage in found["held_out"]
        for sentence in (found["sentence"], other)
    }
    assert len(first) == 3 + len(foretold), (
        "and all is asked: a sentence each, and own and another's words of each passage"
    )
    assert server.asked == first, "and nothing again when the run is over"
    assert again["sites"] == result["sites"]

    assert result["words"]["address"] == server.address
    assert server.address in result["words"]["sent"]
    assert f"are sent to {server.address}" in " ".join(told.err.split())
    assert f"words for {SITE}" in told.err
    page = (tmp_path / "o" / "report.html").read_text()
    assert IN_WORDS in page
    assert "The token &#34;" in page
    assert f"oracle at {server.address}" in page
    kept = [path.read_bytes() for path in (tmp_path / "o").rglob("*") if path.is_file()]
    assert not any(b"sk-secret" in content for content in kept)
    assert "sk-secret" not in told.out + told.err


def test_sentences_are_judged_on_text_that_they_were_not_made_from(planted, llama, tokenizer, tmp_path) -> None:
    with serving(oracle) as server:
        words = worded(run(llama, tokenizer, tmp_path / "o", **asked_of(server)))
    texts = read(llama, tokenizer, "stdlib", TOKENS, 0)
    fit, held = (
        " ".join(str(i) for batch in batches for i in batch["input_ids"].flatten().tolist())
        for batches in (texts.fit, texts.judge)
    )
    for passage in (passage for found in words for passage in found["held_out"]):
        ids = " ".join(map(str, passage["ids"]))
        assert ids in held
        assert ids not in fit
        fires = [code > 0 for code in passage["codes"]]
        assert any(fires) == (passage["from"] != "silent")
        assert {i for i, fire in zip(passage["ids"], fires, strict=True) if fire} <= set(planted)


def test_an_interrupted_run_asks_only_for_what_is_missing(planted, llama, tokenizer, tmp_path, monkeypatch) -> None:
    left, fits = [10**6], []
    train = dictionary.train
    monkeypatch.setattr(dictionary, "train", lambda *given, **named: fits.append(1) or train(*given, **named))

    def until(prompt: str) -> str | tuple:
        left[0] -= 1
        return oracle(prompt) if left[0] >= 0 else (500, {}, b"")

    with serving(until) as server:
        whole = run(llama, tokenizer, tmp_path / "whole", **asked_of(server))
        needed, done = sorted(server.asked), len(server.asked)
        fits.clear()
        left[0] = 1 + 10  # the check's word and ten answers
        with pytest.raises(UserError, match="kept: give the same command again"):
            run(llama, tokenizer, tmp_path / "o", **asked_of(server))
        assert not (tmp_path / "o" / "result.json").exists()
        left[0] = 10**6
        result = run(llama, tokenizer, tmp_path / "o", **asked_of(server))
        asked = server.asked[done:]
    assert len(fits) == 2, "one dictionary and its control, trained before the interruption"
    assert result["sites"] == whole["sites"]
    assert sorted(asked[:10] + asked[11:]) == needed, "the one that failed was asked again, and no other"
    assert asked[10] == asked[11]


def test_words_are_added_to_a_run_that_was_made_without(planted, llama, tokenizer, tmp_path) -> None:
    plain = run(llama, tokenizer, tmp_path / "o")
    assert "words" not in plain.to_json()
    assert not worded(plain)
    with serving(oracle) as server:
        result = run(llama, tokenizer, tmp_path / "o", words=2, **asked_of(server))
        more = run(llama, tokenizer, tmp_path / "o", words=3, **asked_of(server))
    assert len(worded(result)) == 2
    assert len(worded(more)) == 3
    assert result["sites"][0]["table"] == plain["sites"][0]["table"]
    assert [f["sentence"] for f in worded(more)][:2] == [f["sentence"] for f in worded(result)]


def test_what_a_writer_says_is_escaped_on_the_page_and_harmless_in_a_terminal(
    planted, llama, tokenizer, tmp_path
) -> None:
    said = "<script>alert(1)</script> \x1b[2J& more"
    with serving(lambda prompt: said) as server:
        result = run(llama, tokenizer, tmp_path / "o", words=1, words_by=server.address, words_model="<b>bold</b>")
    (found,) = worded(result)
    assert found["sentence"] == "<script>alert(1)</script> [2J& more"
    assert found["score"]["correlation"] is None
    assert found["score"]["unreadable"] == {"it holds no line of the form 3: 0": len(found["held_out"])}
    page = (tmp_path / "o" / "report.html").read_text()
    assert "<script>alert" not in page
    assert "<b>bold" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2, "in the table, and above its passages"
    assert "it holds no line of the form 3: 0" in page


@pytest.fixture(scope="module")
def writer(tokenizer, tmp_path_factory):
    """A folder with a tiny model of random weights that takes long prompts."""
    folder = tmp_path_factory.mktemp("writers") / "tiny-writer"
    torch.manual_seed(0)
    config = tf.LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=4096, **SIZES)
    tf.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_model_of_this_machine_says_whatever_it_says(
    writer, planted, llama, tokenizer, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(scoring, "LINE_TOKENS", 1)
    result = run(llama, tokenizer, tmp_path / "o", words=2, words_by=writer)
    assert len(worded(result)) == 2
    for found in worded(result):
        assert found["by"] == "tiny-writer"
        assert (found["sentence"] is None) == bool(found["why"])
        assert found["sentence"] is None or (found["score"]["correlation"] is None) == bool(found["score"]["why"])
    assert result["words"] == {"by": "tiny-writer", "address": None, "features": 2, "sent": None}
    assert str(writer.parent) not in (tmp_path / "o" / "result.json").read_text()


def test_a_model_of_this_machine_answers_in_its_own_words_without_the_prompt(writer, tokenizer) -> None:
    found = local.Local(str(writer), False, None, lambda note: None)
    found.check()
    prompt = tokenizer("for each line", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        ids = prompt
        for _ in range(5):  # the likeliest token, one by one
            ids = torch.cat([ids, found.model(ids).logits[:, -1:].argmax(-1)], dim=1)
    assert found.ask("for each line", 5) == tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True)
    assert found.identity != local.Local(str(writer), False, None, print).identity | {"weights": ""}
    with pytest.raises(asking.Unanswered, match="too long"):
        found.ask("word " * 5000, LINE_TOKENS)
    found.tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<answer>"
    assert tokenizer.decode(found._tokens("a prompt")["input_ids"][0]).replace(" ", "") == "<user>aprompt<answer>"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"words_by": "no/such/folder"}, "There is no folder"),
        ({"words_by": "pocket"}, "takes 512 tokens at most"),
        ({"words_by": "http://127.0.0.1:1/v1"}, "Which model is to be asked"),
        ({"words_by": "http://127.0.0.1:1/v1", "words_model": " "}, "Which model is to be asked"),
        ({"words_by": "http://127.0.0.1:1/v1", "words_model": "m"}, "cannot be reached"),
        ({"words_by": "ftp://127.0.0.1/v1", "words_model": "m"}, "begins with http"),
        ({"words_by": "pocket", "words_model": "m"}, "Leave it out"),
        ({"words_model": "m"}, "say which"),
        ({"words_by": "pocket", "words": 0}, "from 1 to 50"),
        ({"words_by": "pocket", "words_timeout": float("nan")}, "more than 0 seconds"),
        ({"words_by": "pocket", "tool": "statistics", "settings": None}, "Ask for a dictionary"),
        ({"words_by": 5}, "words_by must be a text"),
    ],
)
def test_slips_are_told_before_anything_is_done(given, told, llama, tokenizer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("layersmith.explaining.pipeline._explain", lambda *given, **named: pytest.fail("work was done"))
    with pytest.raises(UserError, match=told):
        run(llama, tokenizer, tmp_path / "o", **given)
    assert not (tmp_path / "o").exists()


def test_a_folder_without_a_language_model_is_refused(llama, tokenizer, tmp_path) -> None:
    tiny("bert").save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="it is a BertForMaskedLM, and a writer is a causal language model"):
        run(llama, tokenizer, tmp_path / "o", words_by=tmp_path / "bert")
    tiny("llama").save_pretrained(tmp_path / "mute")
    with pytest.raises(UserError, match="without a tokenizer"):
        run(llama, tokenizer, tmp_path / "o", words_by=tmp_path / "mute")


def test_code_of_a_writers_folder_is_run_only_when_that_is_allowed(llama, tokenizer, tmp_path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "code.C"}}')
    (folder / "code.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(UserError, match="trust_remote_code"):
        run(llama, tokenizer, tmp_path / "o", words_by=folder)


def test_a_model_that_reads_no_text_has_no_features_in_words(tmp_path) -> None:
    with serving(oracle) as server, pytest.raises(UserError, match="passages of text"):
        run(tiny("vit"), None, tmp_path / "o", data="stdlib", sites="layers.0.ffn", **asked_of(server))


def test_as_many_features_may_be_worded_as_have_a_page() -> None:
    assert options.MOST_WORDS == dictionary.PAGES
    assert dictionary.Dictionary.name == options.WORDED
