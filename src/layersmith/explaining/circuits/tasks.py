"""Prompt pairs of known tasks, drawn without end. Every pair asks for the same kind of answer in two ways.

induction   a list of words and its beginning again; in the other prompt of other words (Olsson et al. 2022)
names       who is given something: the one named once (the indirect object; Wang et al. 2022)
greater     a later year of the same century; in the other prompt the first year ends in 01 (Hanna et al. 2023)
docstring   the next parameter to describe; in the other prompt the function has others (Heimersheim & Janiak 2023)
addition    a sum; in the other prompt of other numbers. In half of the pairs the sum is just under or at 1000, the
            cascades of carries that "Understanding Addition in Transformers" finds hard
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from layersmith.errors import UserError, suggest
from layersmith.explaining.circuits.prompts import Pair

_words = """
time name file line list type data code path test text size word key value item node root book page part case game
house water light paper music stone river table horse glass green black white heart world
"""
_parameters = "name path file size text data key value index start end line mode type count level"
WORDS, PARAMETERS = _words.split(), _parameters.split()
NAMES = ("Tom", "Ann", "John", "Mary", "Mark", "Paul", "Anna", "Jack", "Kate", "Mike", "Lisa", "Adam", "Jane", "Rose")
PLACES = ("store", "park", "school", "house", "garden", "office")
GIFTS = ("book", "drink", "ring", "ball", "letter", "key")
NOUNS = ("war", "trip", "strike", "mission", "journey", "voyage")


def draw(task: str, seed: int) -> Iterator[Pair]:
    """Pairs of the task without end, the same for the same seed. UserError for an unknown task."""
    check(task)
    rng = random.Random(seed)
    while True:
        yield TASKS[task](rng)


def check(task: str) -> None:
    """UserError, with the closest names, for a task that there is not."""
    if task not in TASKS:
        raise UserError(f"Unknown prompt task {task!r}. {suggest(task, list(TASKS))}")


def _induction(rng: random.Random) -> Pair:
    """The two prompts ask for words of different places: heads cannot look to the right one on the other prompt."""
    words = rng.sample(WORDS, 12)
    places = rng.sample(range(1, 5), 2)
    texts, answers = [], []
    for listed, place in zip((words[:6], words[6:]), places, strict=True):
        texts.append(" ".join(["", *listed, *listed[place - 1 : place + 1]]))
        answers.append((f" {listed[place + 1]}",))
    return Pair(texts[0], texts[1], answers[0], answers[1])


def _names(rng: random.Random) -> Pair:
    first, second = rng.sample(NAMES, 2)
    text = f"When {first} and {second} went to the {rng.choice(PLACES)}, %s gave a {rng.choice(GIFTS)} to"
    return Pair(text % first, text % second, (f" {second}",), (f" {first}",))


def _greater(rng: random.Random) -> Pair:
    century, year = rng.randrange(11, 20), rng.randrange(10, 90)
    text = f"The {rng.choice(NOUNS)} lasted from the year {century}%s to the year {century}"
    later = tuple(f"{after:02d}" for after in range(year + 1, 100))
    return Pair(text % f"{year:02d}", text % "01", later, tuple(f"{before:02d}" for before in range(2, year + 1)))


def _docstring(rng: random.Random) -> Pair:
    first, second, third, *others = rng.sample(PARAMETERS, 6)
    told = [f"    :param {name}: the {rng.choice(WORDS)}" for name in (first, second)]
    ending = "\n".join(["):", '    """Do it.', "", *told, "    :param"])
    function = rng.choice(("load", "read", "make", "find"))
    return Pair(
        f"def {function}(self, {first}, {second}, {third}{ending}",
        f"def {function}(self, {others[0]}, {others[1]}, {others[2]}{ending}",
        (f" {third}",),
        (f" {others[2]}",),
    )


def _addition(rng: random.Random) -> Pair:
    cascades = rng.random() < 0.5
    a = rng.randrange(100, 500)
    b = 1000 - a - rng.randrange(0, 10) if cascades else rng.randrange(100, 500)
    c = rng.randrange(100, 500)
    return Pair(f"{a}+{b}=", f"{a}+{c}=", (str(a + b),), (str(a + c),))


TASKS: dict[str, Callable[[random.Random], Pair]] = {
    "induction": _induction,
    "names": _names,
    "greater": _greater,
    "docstring": _docstring,
    "addition": _addition,
}
