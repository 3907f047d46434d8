"""The page: well-formed, complete in itself, safe with any text, and whole whatever part of the result is missing."""

import base64
import hashlib
import json
import re
from copy import deepcopy
from html import unescape
from html.parser import HTMLParser

import pytest
from jinja2 import UndefinedError

from layersmith import report
from layersmith.report import additivity, floors, healing, pareto
from layersmith.report.templating import fill

from .results import make_result

VOID = {"meta", "br", "hr", "input", "wbr"}
RESULTS = {
    "small": {},
    "deep": {"layers": 30, "seed": 1},
    "encoder": {"layers": 6, "encoder": True, "heal": "none"},
    "rolled back": {"heal": "rolled_back"},
    "budget missed": {"met": False},
    "by parameters": {"budget": "params"},
    "decoder stack": {"stack": "decoder", "layers": 3},
}


class Checker(HTMLParser):
    """Fails on unbalanced tags; collects attributes and the texts of style and script elements."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.ids, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append((self.open[-1] if self.open else "", data))


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


@pytest.mark.parametrize("kind", RESULTS)
def test_well_formed_and_self_contained(kind):
    page = report.render(make_result(**RESULTS[kind]))
    checker = checked(page)
    assert len(checker.ids) == len(set(checker.ids))
    for tag, name, value in checker.attributes:
        assert name not in ("src", "srcset", "data", "action", "onclick", "onload"), tag
        if name in ("href", "xlink:href"):
            assert value.startswith("#")
            assert value[1:] in checker.ids
    style = "".join(text for tag, text in checker.text if tag == "style")
    assert "@import" not in style
    assert "url(" not in style
    assert "http" not in page.partition("<style>")[2].partition('<script type="application/json"')[0]
    visible = [text for tag, text in checker.text if tag not in ("style", "script")]
    values = [value for _, name, value in checker.attributes if name != "data-tip"]
    for word in ("nan", "inf", "None", "undefined"):
        assert not any(re.search(rf"\b{word}\b", str(text)) for text in visible + values), word


def test_the_result_travels_along():
    result = make_result()
    result["note"] = "</script><!-- \u2028 & é 😀"
    page = report.render(result)
    embedded = re.search(r'<script type="application/json" id="result">(.*?)</script>', page, re.S)[1]
    assert json.loads(embedded) == json.loads(json.dumps(result))
    assert "<" not in embedded


EVIL = "\"'><script>alert(1)</script></style></script><img src=x onerror=alert(1)>&lt;\x00\x1b\ud800"


def poisoned(value):
    """Every text of a result replaced by a malicious one; ids and names that other parts refer to keep their start."""
    if isinstance(value, dict):
        return {k: poisoned(v) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(v) for v in value]
    return value + EVIL if isinstance(value, str) else value


def test_no_text_of_a_result_becomes_markup():
    result = make_result()
    clean, evil = checked(report.render(result)), checked(report.render(poisoned(result)))
    for checker in (clean, evil):
        assert {tag for tag, _, _ in checker.attributes} >= {"svg", "script", "meta"}
        assert not any(name.startswith("on") for _, name, _ in checker.attributes)
    assert "img" not in {tag for tag, _, _ in evil.attributes}
    scripts = [text for tag, text in evil.text if tag == "script"]
    assert len(scripts) == 2
    assert scripts[1] == [text for tag, text in clean.text if tag == "script"][1]


def test_only_the_own_script_may_run():
    page = report.render(make_result())
    policy = dict(rule.split(" ", 1) for rule in policy_of(page).split("; "))
    assert policy == {"default-src": "'none'", "style-src": "'unsafe-inline'", "script-src": policy["script-src"]}
    script = re.search(r"<script>(.*?)</script>", page, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy["script-src"] == f"'sha256-{digest}'"


def policy_of(page):
    return unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1])


def test_the_contents_list_the_sections_in_their_order():
    page = report.render(make_result())
    listed = re.findall(r'<a href="#(\w+)">', page)
    assert listed == re.findall(r'<section id="(\w+)">', page)
    assert len(listed) == 13
    assert re.findall(r'<section id="(\w+)">', report.render({})) == ["summary", "pareto", "glossary"]


def test_the_glossary_is_folded_at_the_end_and_true_for_the_kind_of_model():
    for kind, said in [({}, "nats per token"), ({"encoder": True}, "squared distance of the last hidden states")]:
        page = report.render(make_result(**kind))
        last = page[page.index('<section id="glossary">') : page.index("</main>")]
        assert "<details><summary>" in last
        terms = re.findall(r"<dt>([^<]*)</dt>", last)
        asked = {"divergence", "agreement", "floor", "local error", "uniform", "front", "healing"}
        assert asked <= set(terms)
        assert said in last


def test_a_model_without_tokens_reads_nothing_of_tokens_and_their_divergence():
    page = report.render(make_result(encoder=True))
    shown = page.partition("<body>")[2].partition('<script type="application/json"')[0]
    for word in ("KL", "Kullback", "nats", "next token"):
        assert word not in shown, word


def test_a_mixer_is_called_one():
    """`attn` is an address; a model whose mixers are no attentions must not read of any."""
    result = make_result()
    titles = re.findall(r'class="(?:panel-title|tick)"[^>]*>([^<]*)<', report.render(result))
    assert "mixer" in titles
    assert not any("attn" in title for title in titles)


def test_what_is_missing_in_a_template_is_an_error():
    with pytest.raises(UndefinedError):
        fill("refit.html", {"title": "x"})


def test_on_paper_nothing_is_dark_scrolls_or_is_tinted():
    style = re.search(r"<style>(.*?)</style>", report.render(make_result()), re.S)[1]
    assert "@media screen and (prefers-color-scheme: dark)" in style
    assert "@media (prefers-color-scheme: dark)" not in style
    assert "--paper: #fff;" in style[style.index("@media print { :root") :]


def paths(value, path=()):
    """Every place in a result, to be set to null."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths(inner, (*path, key))


#: Without these an entry of a list could not be told from others, so they are always there.
REQUIRED = {"id", "name", "sites", "method", "step"}
#: The parts of a result that a chart reads. Drawing takes most of a page's time, so it is done again for these alone.
READS = {
    additivity: ("uniform", "front", "chosen", "baseline", "settings"),
    floors: ("sites", "candidates", "chosen"),
    healing: ("heal",),
    pareto: ("uniform", "front", "chosen", "baseline", "settings", "candidates"),
}


def few(result):
    """A result with two of everything whose number does not matter."""
    kept = {s["name"] for s in result["sites"] if s["kind"] in ("ffn", "block")}
    result["sites"] = [s for s in result["sites"] if s["name"] in kept]
    result["candidates"] = [c for c in result["candidates"] if c["id"].split("/")[0] in kept]
    return result | {name: result[name][:2] for name in ("uniform", "front")}


@pytest.mark.parametrize("chart", READS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_chart_reads_these_parts_and_no_others(chart):
    for result in (few(make_result(layers=1)), make_result(layers=3, encoder=True, heal="rolled_back")):
        assert chart.draw({part: result[part] for part in READS[chart]}) == chart.draw(result)


def remembered(chart):
    """`chart.draw` that draws once for equal parts."""
    draw, drawn = chart.draw, {}

    def again(result):
        key = json.dumps([result[part] for part in READS[chart]])
        if key not in drawn:
            drawn[key] = draw(result)
        return drawn[key]

    return again


@pytest.mark.parametrize("part", few(make_result(layers=1)))
def test_any_part_may_be_null(part, monkeypatch):
    for chart in READS:
        monkeypatch.setattr(chart, "draw", remembered(chart))
    whole = few(make_result(layers=1))
    for path in [(part,), *paths(whole[part], (part,))]:
        if isinstance(path[-1], int) or (len(path) > 2 and path[-1] in REQUIRED):
            continue
        result = deepcopy(whole)
        place = result
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = None
        try:
            page = report.render(result)
        except Exception as error:
            pytest.fail(f"result{list(path)} is null: {error!r}")
        assert page.startswith("<!doctype html>")


def test_an_empty_result_is_a_page_too():
    checked(report.render({}))


def test_not_a_number_is_told_and_not_drawn():
    result = make_result()
    result["candidates"][0]["local_error"] = float("inf")
    result["chosen"]["measured"]["perplexity"] = float("nan")
    page = report.render(result)
    assert "Some numbers are not finite." in page
    assert "result.chosen.measured.perplexity" in page
    checked(page)


def test_a_local_path_is_named_by_its_last_part():
    result = make_result()
    result["model"]["name"] = "/home/someone/models/SmolLM2-135M/"
    assert "<title>SmolLM2-135M: layersmith refit report</title>" in report.render(result)


def test_write_replaces_the_file_in_one_step(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    assert report.write(make_result(), path) == path
    assert path.read_text(encoding="utf-8") == report.render(make_result())
    assert list(tmp_path.iterdir()) == [path]
