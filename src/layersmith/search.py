"""One search over all that can be run (parts, methods, ..., tasks, optimizers) and over the source papers.

Nothing that can be run is imported for it: what files say is read off them (`facts`), so an answer takes a moment.

    find("prune heads")        -> items, best first
    item_named("heads")        -> what `layersmith show` tells about; papers by arXiv id or by words of the title

A word counts most where it is the name, then in the title, then in the text (idea, mechanism, titles of papers). Every
word must occur; where nothing has them all, some will do. What people say in other words than the files do stands in
`SYNONYMS`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache

from layersmith import catalogue, describe, facts
from layersmith.errors import UserError, suggest
from layersmith.explaining.constructions import CONSTRUCTIONS
from layersmith.explaining.tools import TOOLS
from layersmith.papers import ARXIV, papers
from layersmith.racing.optimizers import OPTIMIZERS
from layersmith.racing.tasks import TASKS
from layersmith.refitting.heal.adapters import ADAPTERS
from layersmith.refitting.methods import METHODS
from layersmith.refitting.prove.folds import FOLDS

#: Words that say nothing about what is looked for.
EMPTY = {"a", "an", "the", "of", "for", "to", "in", "on", "and", "or", "with", "as", "by", "is", "from", "into"}
EMPTY |= {"model", "models", "transformer", "transformers"}
_FEWER_LAYERS = ("drop sublayer", "remove blocks", "depth pruning")
#: What people say -> what the files say, tried beside it.
SYNONYMS = {
    "cheaper softmax": ("linear attention",),
    "efficient attention": ("linear attention", "merge key-value heads"),
    "cheaper attention": ("linear attention", "merge key-value heads"),
    "early exit": ("depth-adaptive", "dynamic depth", *_FEWER_LAYERS),
    "skip layers": ("dynamic depth", *_FEWER_LAYERS),
    "layer drop": _FEWER_LAYERS,
    "layerdrop": _FEWER_LAYERS,
    "drop layers": _FEWER_LAYERS,
    "layer pruning": _FEWER_LAYERS,
    "kv cache": ("kv_merge", "key-value cache", "state constant size"),
    "gqa": ("key-value heads",),
    "sliding window": ("window softmax attention",),
    "local attention": ("window softmax attention",),
    "faster decoding": ("one token after another", "merge key-value heads"),
    "faster generation": ("one token after another", "merge key-value heads"),
    "prune heads": ("remove heads",),
    "head pruning": ("remove heads",),
    "mixture of experts": ("experts",),
    "moe": ("experts",),
    "experts from dense": ("carve feed-forward into experts",),
    "dense model": ("dense", "trained feed-forward"),
    "remove layer norm": ("dyt", "fixed_norm", "prep_bn", "rep_bn", "without normalization"),
    "remove layernorm": ("dyt", "fixed_norm", "prep_bn", "rep_bn", "without normalization"),
    "norm free": ("dyt", "without normalization"),
    "quantization": ("gptq", "rtn", "quantize"),
    "int8": ("quantize",),
    "int4": ("quantize",),
    "svd": ("low rank",),
    "kan": ("kolmogorov-arnold",),
    "mlp": ("feed-forward",),
    "sparsity": ("strongest hidden channels",),
}


@dataclass(frozen=True, eq=False)
class Item:
    """One thing to find. title: one line; text: everything else known.

    kind: part, scheme, method, fold, adapter, construction, tool, task, optimizer or paper
    """

    kind: str
    name: str
    title: str
    text: str

    @property
    def runs(self) -> bool:
        return self.kind != "paper"


def find(query: str) -> list[Item]:
    """The items that answer the query, best first; all of them for an empty one. What can be run precedes papers."""
    wanted = [terms for terms in map(_terms, _alternatives(query)) if terms]
    if not wanted:
        return list(index())
    for enough in (_all, _some):
        found = {}
        for item in index():
            scores = [score for terms in wanted if (score := enough(_scores(item, terms)))]
            if scores:
                found[item] = max(scores)
        if found:
            return sorted(found, key=lambda item: (not item.runs, -found[item]))
    return []


def item_named(words: str) -> Item:
    """The item of that name, the paper of that arXiv id, or the one paper whose title has all the words.

    Raises a UserError with the nearest names, or with the papers among which the words do not decide.
    """
    name = words.strip()
    by_name = {item.name: item for item in reversed(index())}  # a part precedes the method of the same name
    cited = re.sub(r"^(arxiv:?\s*|https?://arxiv\.org/(abs|pdf)/)|(v\d+)?(\.pdf)?$", "", name, flags=re.IGNORECASE)
    for exact in (name, name.lower(), name.lower().replace(" ", "_").replace("-", "_"), cited):
        if exact in by_name:
            return by_name[exact]
    _refuse_a_slip(name, list(by_name))
    if ARXIV.fullmatch(cited):
        told = suggest(cited, [key for key in papers() if ARXIV.fullmatch(key)])
        raise UserError(f"No paper of arXiv id {cited} is on record. {told} `layersmith catalogue WORDS --papers`.")
    titled = [item for item in find(name) if not item.runs and _all(_scores(item, _terms(name), title_only=True))]
    whole = [item for item in titled if len(_words(item.title)) == len(_words(name))]
    if len(titled) == 1 or len(whole) == 1:
        return (whole or titled)[0]
    runs = list(dict.fromkeys(item.name for item in find(name) if item.runs))[:3]
    if titled:
        some = "; ".join(f"{item.name} ({item.title})" for item in titled[:5])
        raise UserError(
            f"{len(titled)} papers have {name!r} in their title. Name one by its id: {some}."
            + (f" Of what can be run, the nearest: {', '.join(runs)}." if runs else "")
        )
    told = f"The nearest are {', '.join(runs)}." if runs else suggest(name, list(by_name))
    raise UserError(f"Nothing is called {name!r}. {told} `layersmith catalogue WORDS` searches.")


def _refuse_a_slip(name: str, known: list[str]) -> None:
    """Raise a UserError for what is nearly a name of something that can be run, and stands in no paper's title."""
    written = name.lower().replace(" ", "_").replace("-", "_")
    near = get_close_matches(written, [key for key in known if key not in papers()], n=3, cutoff=0.7)
    if near and not any(name.lower() in paper.title.lower() for paper in papers().values()):
        meant = " or ".join(map(repr, near))
        raise UserError(f"Nothing is called {name!r}. Did you mean {meant}? `layersmith catalogue WORDS` searches.")


@cache
def index() -> tuple[Item, ...]:
    """Everything there is to find, kind by kind, source papers last."""
    found = []
    for name, entry in catalogue.ENTRIES.items():
        kind = "scheme" if entry.family == "scheme" else "part"
        text = f"{entry.family} {entry.target} {catalogue.documentation(name)} {_cited(entry.papers)}"
        found.append(Item(kind, name, catalogue.summary(name), text))
    for name, target in METHODS.items():
        read = facts.of(target)
        about = f"{describe.method_kind(name)} {' '.join(read.stated.get('builds', ()))} {read.stated['when_it_pays']}"
        found.append(Item("method", name, read.first_line, f"{read.opening} {about} {_cited(read.papers)}"))
    for name, fold in FOLDS.items():
        read = facts.of(fold.target)
        found.append(Item("fold", name, read.first_line, f"{read.opening} {_cited(fold.papers)}"))
    for kind, table, said in (
        ("adapter", ADAPTERS, "refit heal adapter"),
        ("construction", CONSTRUCTIONS, ""),
        ("tool", TOOLS, "explain"),
        ("task", TASKS, "race task"),
        ("optimizer", OPTIMIZERS, "race optimizer"),
    ):
        for name, target in table.items():
            read = facts.of(target)
            found.append(Item(kind, name, read.stated["summary"], f"{said} {read.opening} {_cited(read.papers)}"))
    found += [Item("paper", p.id, p.title, f"{p.kind} {p.mechanism}") for p in papers().values()]
    return tuple(found)


def _cited(ids: tuple[str, ...]) -> str:
    return " ".join(f"{key} {papers()[key].title} {papers()[key].mechanism}" for key in ids)


def _alternatives(query: str) -> list[str]:
    """The query, and the query with what people say replaced by what the files say."""
    plain = " ".join(_words(query))
    out = [plain]
    for said, meant in SYNONYMS.items():
        pattern = r"\b" + r"\w*\s".join(word.rstrip("s") for word in said.split()) + r"s?\b"
        if re.search(pattern, plain):
            out += [re.sub(pattern, " ".join(_words(other)), each) for each in list(out) for other in meant]
    return out


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9.]*[a-z0-9]", text.lower())  # an underscore parts words, a point does not


def _terms(query: str) -> list[str]:
    return [word for word in dict.fromkeys(_words(query)) if word not in EMPTY]


def _scores(item: Item, terms: list[str], title_only: bool = False) -> list[int]:
    """For each word what its best occurrence is worth, 0 where it does not occur."""
    name, title, text = _fields(item)
    worth = [
        12 * (term == item.name) or 8 * _occurs(term, name) or 4 * _occurs(term, title) or (1 * _occurs(term, text))
        for term in terms
    ]
    return [0 if title_only and not _occurs(term, title) else one for term, one in zip(terms, worth, strict=True)]


@cache
def _fields(item: Item) -> list[frozenset[str]]:
    """The words of name, title and text."""
    return [frozenset(_words(text)) for text in (item.name, item.title, item.text)]


def _occurs(term: str, words: frozenset[str]) -> bool:
    return term in words or any(_alike(term, word) for word in words)


@cache
def _alike(one: str, other: str) -> bool:
    """Whether two words differ in their endings alone: prune and pruning, simplified and simplifying."""
    shorter = min(len(one), len(other))
    stem = max(4, shorter - (3 if shorter >= 8 else 1))
    return shorter >= 4 and one[:stem] == other[:stem]


def _all(scores: list[int]) -> float:
    """The item's mean worth when every word occurs, else 0."""
    return sum(scores) / len(scores) if all(scores) else 0.0


def _some(scores: list[int]) -> float:
    """The item's worth when at least one word occurs: which share does, then how well."""
    return 100 * sum(map(bool, scores)) / len(scores) + sum(scores) / len(scores)
