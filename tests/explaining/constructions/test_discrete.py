"""Constructions that decide, against Python's own answers."""

from __future__ import annotations

import itertools
import random
from functools import reduce
from operator import xor

import pytest
import torch

from layersmith.explaining.constructions import get


def build(name: str, **settings: object):
    construction = get(name)
    return construction.build(construction.settled(settings))


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_parity_is_xor_of_every_string(n: int) -> None:
    module = build("parity")
    for bits in itertools.product((0, 1), repeat=n):
        assert (float(module(torch.tensor([bits]))) > 0) == bool(reduce(xor, bits)), bits


def test_parity_is_xor_of_long_strings() -> None:
    module, draw = build("parity"), random.Random(1)
    for n in (99, 500):
        bits = [draw.randrange(2) for _ in range(n)]
        for turned in range(2):
            bits[turned] ^= 1
            assert (float(module(torch.tensor([bits]))) > 0) == bool(reduce(xor, bits))
            assert float(module.confident(torch.tensor([bits]))) == pytest.approx(1 if reduce(xor, bits) else -1)


@pytest.mark.parametrize("log_length", [0, 1])
def test_first_reads_the_first_bit_alone(log_length: int) -> None:
    module = build("first", log_length=log_length)
    for bits in itertools.product((0, 1), repeat=6):
        assert (float(module(torch.tensor([bits]))) > 0) == bool(bits[0])


def test_the_logarithm_keeps_the_margin_of_first() -> None:
    with_it, without = build("first"), build("first", log_length=0)
    short, long = torch.tensor([[1, *[0] * 9]]), torch.tensor([[1, *[0] * 999]])
    assert float(with_it(long)) > float(with_it(short)) > 0.4
    assert float(without(long)) < 0.02 * float(without(short)) * 2


def test_k_parity_is_xor_of_the_chosen_bits() -> None:
    from layersmith.explaining.constructions.k_parity import places

    construction = get("k_parity")
    settings = construction.settled({"n": 10, "k": 3})
    module, chosen = construction.build(settings), places(settings)
    for bits in itertools.product((0, 1), repeat=10):
        want = reduce(xor, (bits[i] for i in chosen))
        assert float(module(torch.tensor([bits]))[0]) == pytest.approx(want, abs=1e-6)


def test_induction_head_counts_successors() -> None:
    model, draw = build("induction_head", symbols=5, gain=10.0), random.Random(1)
    text = [5, *(draw.randrange(5) for _ in range(40))]
    logits = model(torch.tensor([text])).logits[0]
    for t in range(1, len(text)):
        after = [b for a, b in itertools.pairwise(text[: t + 1]) if a == text[t]]
        if after:
            want = [10.0 * after.count(symbol) / len(after) for symbol in range(6)]
            torch.testing.assert_close(logits[t], torch.tensor(want, dtype=torch.float64), atol=1e-8, rtol=0)


def test_induction_head_generates_what_it_has_seen() -> None:
    model = build("induction_head", symbols=8)
    seen = [8, 3, 1, 4, 7, 5, 2, 6, 0, 3]
    out = model.generate(torch.tensor([seen]), max_new_tokens=7, do_sample=False, pad_token_id=8)
    assert out[0, len(seen) :].tolist() == [1, 4, 7, 5, 2, 6, 0]


@pytest.mark.parametrize("layers", [1, 2])
def test_connectivity_is_reach_within_powers_of_three(layers: int) -> None:
    module, n = build("connectivity", nodes=14, layers=layers), 14
    draw = random.Random(1)
    for edges in ([(a, a + 1) for a in range(n - 1)], [(draw.randrange(n), draw.randrange(n)) for _ in range(12)]):
        distance = [[0 if a == b else 99 for b in range(n)] for a in range(n)]
        for a, b in edges:
            if a != b:
                distance[a][b] = distance[b][a] = 1
        for via, a, b in itertools.product(range(n), repeat=3):  # Floyd and Warshall
            distance[a][b] = min(distance[a][b], distance[a][via] + distance[via][b])
        adjacency = torch.zeros(1, n, n)
        for a, b in edges:
            adjacency[0, a, b] = adjacency[0, b, a] = 1
        found = module(adjacency)[0] > 0
        assert found.tolist() == [[d <= 3**layers for d in row] for row in distance]


def test_sparse_averages_are_means() -> None:
    items, draw = 64, random.Random(1)
    module = build("sparse_averages", items=items, q=4, size=128)
    torch.manual_seed(1)
    z, sets = torch.rand(1, items, items).double(), [draw.sample(range(items), 4) for _ in range(items)]
    got = module(z, torch.tensor([sets]))[0]
    for i, one in enumerate(sets):
        for c in range(0, items, 9):
            assert float(got[i, c]) == pytest.approx(sum(float(z[0, j, c]) for j in one) / 4, abs=0.02)


@pytest.mark.parametrize("modulus", [2, 7, 30])
def test_match2_finds_partners(modulus: int) -> None:
    module, draw = build("match2", modulus=modulus, numbers=6), random.Random(1)
    for _ in range(50):
        numbers = [draw.randrange(modulus) for _ in range(6)]
        want = [any((a + b) % modulus == 0 for b in numbers) for a in numbers]
        assert (module(torch.tensor([numbers]))[0] > 0.5).tolist() == want


def test_facts_answer_by_the_relation_that_is_asked() -> None:
    from layersmith.explaining.constructions.facts import Recall

    facts = [[2, 0, 1, 3], [1, 2, 3, 0]]
    codes = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).double()
    module = Recall(facts, codes).double()
    for relation, of_one in enumerate(facts):
        for subject, attribute in enumerate(of_one):
            scores = module(torch.tensor([subject]), torch.tensor([relation]))[0]
            want = [float(codes[attribute] @ code) for code in codes]
            torch.testing.assert_close(scores.detach(), torch.tensor(want).double(), atol=1e-12, rtol=0)


def test_automaton_runs_a_table_of_random_moves() -> None:
    from layersmith.explaining.constructions.automaton import Decoder

    draw = random.Random(1)
    table = [[draw.randrange(7) for _ in range(3)] for _ in range(7)]
    word = [draw.randrange(3) for _ in range(120)]
    want, state = [], 0
    for symbol in word:
        state = table[state][symbol]
        want.append(state)
    assert Decoder(table).double()(torch.tensor(word)).tolist() == want
