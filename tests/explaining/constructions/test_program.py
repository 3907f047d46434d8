"""A discrete transformer: its network beside loops, its text beside the network, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from layersmith.explaining.constructions.constructing import construct
from layersmith.explaining.programs.induction import answers_of, inputs, tokens_of
from layersmith.explaining.programs.learning import IGNORED, discrete
from layersmith.explaining.programs.network import Gumbel, Head, ProgramNetwork, nearness
from layersmith.explaining.programs.source import program_of

SMALL = {"letters": 3, "steps": 300}


def random_network(seed: int, layers: int = 2, heads: int = 2) -> ProgramNetwork:
    """Discrete, of 5 tokens and 6 positions, its choices drawn at random."""
    return discrete(ProgramNetwork(5, 6, 3, layers, heads, tries=3, seed=seed), seed % 3)


def by_loops(network: ProgramNetwork, ids: list[int]) -> list[list[float]]:
    """The scores of the answers at every position, from the definition."""
    variables: list[list[int]] = [list(ids), list(range(len(ids)))]
    for layer in network.layers:
        taken = []
        for head in layer:
            query, key, value = (variables[int(w[0].argmax())] for w in (head.query, head.key, head.value))
            wanted = head.predicate[0].argmax(-1).tolist()
            row = []
            for i in range(len(ids)):
                place = 0
                if key[i] == wanted[query[i]]:
                    place = i
                for j in range(i):
                    if key[j] == wanted[query[i]]:
                        place = j
                row.append(value[place])
            taken.append(row)
        variables += taken
    weights = network.output[0].view(len(variables), network.k, -1)
    return [
        [float(sum(weights[v, values[i], a] for v, values in enumerate(variables))) for a in range(network.answers)]
        for i in range(len(ids))
    ]


@pytest.mark.parametrize("seed", range(6))
def test_the_network_is_that_of_its_definition(seed) -> None:
    network = random_network(seed)
    ids = torch.randint(5, (8, 6), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        got = network(ids)[0]
    for row, scores in zip(ids.tolist(), got, strict=True):
        torch.testing.assert_close(scores, torch.tensor(by_loops(network, row), dtype=torch.float64))


def test_a_position_sees_nothing_behind_it() -> None:
    network = random_network(1)
    ids = torch.randint(5, (4, 6), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[:, 4:] = (other[:, 4:] + 1) % 5
    with torch.no_grad():
        assert torch.equal(network(ids)[:, :, :4], network(other)[:, :, :4])


def test_what_is_trained_comes_to_what_is_discrete_when_it_is_cold() -> None:
    """With decided logits, no noise to speak of and a low temperature a soft head takes what the discrete one does."""
    network = random_network(2)
    soft = ProgramNetwork(5, 6, 3, 2, 2).double()
    with torch.no_grad():
        for (name, weight), (_, made) in zip(soft.named_parameters(), network.named_parameters(), strict=True):
            weight.copy_(made if name == "output" else 200 * made)
        ids = torch.randint(5, (8, 6), generator=torch.Generator().manual_seed(0))
        cold = soft(ids, Gumbel(0.01, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(cold, network(ids), rtol=0, atol=50)


def test_a_head_prefers_the_nearest_and_itself_last() -> None:
    head = Head(1, 2, 6, torch.Generator())
    near = nearness(6, torch.zeros((), dtype=torch.float64))
    scores = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    scores[..., 4, [1, 3, 4, 5]] = 1.0
    scores[..., 5, 5] = 1.0
    assert head.looks(scores, near, None)[0, 0].argmax(-1).tolist() == [0, 0, 0, 0, 3, 5]


@pytest.mark.parametrize("seed", range(4))
def test_the_printed_program_is_the_network_on_every_input(seed, tmp_path: Path) -> None:
    """Every first four tokens with random ones behind, in a process that knows nothing of layersmith."""
    network = random_network(seed + 10)
    tokens, answers = ["<s>", "a", "b", "1", "2"], ["x", "y", "z"]
    program = program_of(network, tokens, answers)
    path = tmp_path / "program.py"
    path.write_text(program.text())
    rows = torch.cartesian_prod(*[torch.arange(5)] * 4)
    rows = torch.cat([rows, torch.randint(5, (len(rows), 2), generator=torch.Generator().manual_seed(0))], 1)
    with torch.no_grad():
        wanted = [[answers[i] for i in row] for row in network(rows)[0].argmax(-1).tolist()]
    words = [[tokens[i] for i in row] for row in rows.tolist()]
    given = "".join(json.dumps(row) + "\n" for row in words)
    ran = subprocess.run([sys.executable, "-I", str(path)], input=given, capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in ran.stdout.splitlines()] == wanted
    assert [program.run(row) for row in words] == wanted


def test_the_task_is_answered_by_looking_back() -> None:
    ids, targets = inputs(2, 3)
    names, answers = tokens_of(2), answers_of(2)
    assert len({tuple(row) for row in ids.tolist()}) == len(ids)
    assert ids.shape == (len(ids), 6)
    for row, right in zip(ids.tolist(), targets.tolist(), strict=True):
        words = [names[i] for i in row]
        for place, word in enumerate(words):
            if word not in "ab":
                assert right[place] == IGNORED
                continue
            before = [words[j + 1] for j in range(place) if words[j] == word]
            assert answers[right[place]] == (before[0] if before else "new")
            assert len(set(before)) <= 1
    assert [names.index(w) for w in ("<s>", "a", "1", "a", "1", "b")] in ids.tolist()
    assert [names.index(w) for w in ("<s>", "0", "a", "1", "a", "1")] in ids.tolist()


def test_a_construction_is_saved_with_its_program(tmp_path: Path) -> None:
    built = construct("program", SMALL, tmp_path)
    text = (tmp_path / "program.py").read_text()
    assert text == built.source
    ids, targets = inputs(3, 3)
    names = tokens_of(3)
    given = "".join(json.dumps([names[i] for i in row]) + "\n" for row in ids.tolist())
    ran = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "program.py")], input=given, capture_output=True, text=True, check=True
    )
    found = torch.tensor([[answers_of(3).index(word) for word in json.loads(line)] for line in ran.stdout.splitlines()])
    assert torch.equal(found, built.module(ids)[0].argmax(-1))
    asked = targets != IGNORED
    assert (found == targets)[asked].double().mean() >= 0.9
    construct("first", {"n": 20}, tmp_path)
    assert not (tmp_path / "program.py").exists()
