"""The survey `circuit`: planted circuits come back edge for edge, scores are exact where the model is linear."""

from __future__ import annotations

import pytest
import torch
import transformers as tf

from layersmith.anatomy import Replay, find_sites
from layersmith.explaining.circuits import acdc, curves, patching
from layersmith.explaining.circuits.attribution import scores
from layersmith.explaining.circuits.graph import Graph
from layersmith.explaining.circuits.prompts import Prompts
from layersmith.explaining.circuits.trials import Trials
from layersmith.explaining.constructions.induction_head import EDGES, InductionHead
from layersmith.measuring.divergence import main_output
from layersmith.model import TransformerConfig, TransformerLM
from tests.explaining.conftest import VOCABULARY, tiny

SYMBOLS = 16


def prompts_of(clean: list[list[int]], corrupt: list[list[int]], right: list[int], wrong: list[int], vocabulary: int):
    ids = [{"input_ids": torch.tensor(each)} for each in (clean, corrupt)]
    where = torch.full((len(clean),), len(clean[0]) - 1)
    marks = [torch.nn.functional.one_hot(torch.tensor(each), vocabulary).bool() for each in (right, wrong)]
    return Prompts(*ids, where, *marks)


def induction() -> Prompts:
    """a b c d ... b -> c; corrupt: other symbols, another of which is asked for."""
    draws = torch.Generator().manual_seed(0)
    rows = [torch.randperm(SYMBOLS, generator=draws).tolist() for _ in range(6)]
    sides = [[row[:8] for row in rows], [row[8:] for row in rows]]
    asked = [[1, 2, 3, 4, 5, 6], [4, 5, 6, 1, 2, 3]]
    made = [
        [[SYMBOLS, *row, row[at]] for row, at in zip(side, places, strict=True)]
        for side, places in zip(sides, asked, strict=True)
    ]
    answers = [
        [row[at + 1] for row, at in zip(side, places, strict=True)] for side, places in zip(sides, asked, strict=True)
    ]
    return prompts_of(*made, *answers, vocabulary=SYMBOLS + 1)


def random_prompts(vocabulary: int, pairs: int = 3, length: int = 7) -> Prompts:
    draws = torch.Generator().manual_seed(1)
    clean, corrupt = (torch.randint(vocabulary, (pairs, length), generator=draws).tolist() for _ in range(2))
    return prompts_of(clean, corrupt, list(range(pairs)), list(range(pairs, 2 * pairs)), vocabulary)


def graph_of(model, prompts: Prompts) -> Graph:
    anatomy = find_sites(model, {"input_ids": prompts.clean["input_ids"]})
    return Graph(model, anatomy, Replay(model, anatomy, prompts.clean), prompts)


def pruned(graph: Graph, cases, threshold: float, at_once: int) -> torch.Tensor:
    keep, now = graph.edges, 0.0
    for reader in reversed(range(len(graph.readers))):
        keep, now = acdc.prune_reader(graph, cases, keep, now, reader, threshold=threshold, at_once=at_once)
    return keep


def names(graph: Graph, circuit: torch.Tensor) -> set[tuple[str, str]]:
    return {(graph.writers[w], graph.readers[r]) for w, r in circuit.nonzero().tolist()}


@pytest.fixture(scope="module")
def planted() -> Graph:
    construction = InductionHead()
    return graph_of(construction.build(construction.settled({"symbols": SYMBOLS})), induction())


@pytest.fixture(scope="module")
def small() -> tuple[Graph, Prompts]:
    prompts = random_prompts(VOCABULARY)
    return graph_of(tiny("llama").double(), prompts), prompts


PLANTED = {(writer, reader if part == "in" else f"{reader}.{part}") for writer, reader, part in EDGES}


@pytest.mark.parametrize("ablation", ["resample", "mean", "zero"])
def test_the_wired_induction_head_comes_back_edge_for_edge(planted, ablation) -> None:
    case = planted.case(induction(), ablation)
    found = pruned(planted, [case], threshold=0.01, at_once=8)
    assert names(planted, found) == PLANTED
    row = curves.row(planted, [case], found, [curves.chance(planted.edges, 5, torch.Generator())])
    whole, nothing = curves.odds(planted, [case], torch.stack([planted.edges, torch.zeros_like(planted.edges)]))
    assert row["with"] == pytest.approx(whole, abs=1e-9)
    assert row["without"] == pytest.approx(nothing, abs=1e-9)
    assert row["random_with"] < whole - 1


def test_edges_without_weights_have_no_score(planted) -> None:
    """Attribution ranks only edges of the wired circuit above zero."""
    found = scores(planted, planted.case(induction(), "resample"), 64)
    alive = {edge for edge in names(planted, found.abs() > 1e-9)}
    assert alive <= PLANTED
    assert ("layers.1.attn", "logits") in alive


def test_all_edges_are_the_model_and_none_the_corrupt_prompt(small) -> None:
    graph, prompts = small
    case = graph.case(prompts, "resample")
    found = graph.run(case, torch.stack([graph.edges, torch.zeros_like(graph.edges)]))
    for circuit, inputs in zip(found, (prompts.clean, prompts.corrupt), strict=True):
        with torch.no_grad():
            expected = prompts.at_answer(main_output(graph.model(**inputs))).log_softmax(-1)
        assert torch.allclose(circuit, expected, atol=1e-5)  # the model's own rotary tables are float32
    assert not torch.allclose(found[0], found[1], atol=1e-3)


SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
OTHERS = {
    "parallel": lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(use_parallel_residual=True, **SMALL)),
    "normed twice": lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(num_key_value_heads=1, head_dim=8, **SMALL)),
    "recurrent": lambda: tf.MambaForCausalLM(tf.MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_blocks_have_a_graph_too(kind) -> None:
    """Sublayers side by side, norms on what is written, and mixers that are no attention."""
    torch.manual_seed(0)
    model, prompts = OTHERS[kind]().eval(), random_prompts(50)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0) if parameter.dim() == 2 else None
    graph = graph_of(model, prompts)
    case = graph.case(prompts, "resample")
    found = graph.run(case, torch.stack([graph.edges, torch.zeros_like(graph.edges)]))
    for circuit, inputs in zip(found, (prompts.clean, prompts.corrupt), strict=True):
        with torch.no_grad():
            expected = prompts.at_answer(main_output(model(**inputs))).log_softmax(-1)
        assert torch.allclose(circuit, expected, atol=1e-3)
    heads = "layers.1.attn.h1" in graph.writers
    assert heads == (kind == "parallel")
    if heads:
        edges = names(graph, graph.edges)
        assert ("layers.1.attn.h1", "layers.1.ffn") not in edges
        reader = graph.readers.index("layers.0.ffn")  # runs beside the attention of its block
        keep = graph.edges.clone()
        keep[0, reader] = False
        tried = Trials(graph, case, graph.edges, reader).run([0])
        assert torch.allclose(tried, graph.run(case, keep[None]), atol=1e-5)
        assert ("layers.0.attn.h1", "layers.1.ffn") in edges


def test_a_run_from_a_later_stage_is_the_whole_run(small) -> None:
    graph, prompts = small
    case = graph.case(prompts, "resample")
    stage = 2  # the attention of the second block
    draws = torch.rand((4, *graph.edges.shape), generator=torch.Generator().manual_seed(0)) > 0.5
    circuits = graph.edges & (draws | (torch.arange(len(graph.readers)) < graph.stages[stage].readers.start))
    assert torch.allclose(graph.run(case, circuits), graph.run(case, circuits, stage), atol=1e-9)
    alone = torch.cat([graph.run(case, each[None]) for each in circuits])
    assert torch.allclose(graph.run(case, circuits), alone, atol=1e-9)


@pytest.mark.parametrize("reader", [0, 3, 14, 20, -1])
def test_trials_at_a_reader_are_runs_of_the_whole_graph(small, reader) -> None:
    """With edges gone in later readers and none in earlier ones; and after some of those tried are gone for good."""
    graph, prompts = small
    case, reader = graph.case(prompts, "resample"), reader % len(graph.readers)
    draws = torch.rand(graph.edges.shape, generator=torch.Generator().manual_seed(0)) > 0.4
    stage = next(stage for stage in graph.stages if reader in stage.readers)
    keep = graph.edges & (draws | (torch.arange(len(graph.readers)) <= reader))
    trials = Trials(graph, case, keep, reader)
    writers = list(reversed(range(stage.known)))
    assert trials.known == stage.known

    def whole(gone: list[int]) -> torch.Tensor:
        circuit = keep.clone()
        circuit[gone, reader] = False
        return graph.run(case, circuit[None])[0]

    found = trials.run(writers)
    for count in range(1, len(writers) + 1):
        assert torch.allclose(found[count - 1], whole(writers[:count]), atol=1e-9)
    trials.take_away(1)
    for gone in range(1, len(writers)):  # one after the other
        assert torch.allclose(trials.run(writers[gone : gone + 1])[0], found[gone], atol=1e-9)
        trials.take_away(1)
    assert torch.allclose(trials.whole, graph.run(case, graph.edges[None])[0], atol=1e-9)


@pytest.mark.parametrize("threshold", [0.02, 0.3])
def test_acdc_is_the_plain_search_edge_by_edge(small, threshold) -> None:
    """Every edge tried alone in a run of the whole graph, as the paper has it."""
    graph, prompts = small
    case = graph.case(prompts, "resample")

    def divergence(circuit: torch.Tensor) -> float:
        whole, found = graph.run(case, torch.stack([graph.edges, circuit]))
        return float((whole.exp() * (whole - found)).sum(-1).mean())

    keep, now = graph.edges, 0.0
    for reader in reversed(range(len(graph.readers))):
        for writer in reversed(graph.edges[:, reader].nonzero()[:, 0].tolist()):
            trial = keep.clone()
            trial[writer, reader] = False
            then = divergence(trial)
            if then - now < threshold:
                keep, now = trial, then
    found = pruned(graph, [case], threshold=threshold, at_once=16)
    assert names(graph, found) == names(graph, keep)


def test_many_edges_at_once_give_what_one_at_a_time_gives(small) -> None:
    graph, prompts = small
    cases = [graph.case(prompts, "resample")]
    one = pruned(graph, cases, threshold=0.02, at_once=1)
    many = pruned(graph, cases, threshold=0.02, at_once=16)
    assert torch.equal(one, many)
    assert 0 < int(one.sum()) < int(graph.edges.sum())
    assert torch.equal(pruned(graph, cases, threshold=1e9, at_once=7), torch.zeros_like(one))


def test_scores_of_the_embedding_add_up_to_the_difference(small) -> None:
    graph, prompts = small
    case = graph.case(prompts, "resample")
    clean, corrupt = curves.odds(graph, [case], torch.stack([graph.edges, torch.zeros_like(graph.edges)]))
    exact = corrupt - clean
    near, nearer = (float(scores(graph, case, steps)[0].sum()) for steps in (8, 128))
    assert nearer == pytest.approx(exact, rel=0.01)
    assert abs(nearer - exact) < abs(near - exact)


def linear_model() -> TransformerLM:
    """Attention that looks nowhere in particular, feed-forwards of one matrix, no norm: logits are linear."""
    layer = {
        "norm": None,
        "mixer": {"name": "softmax_attention", "n_heads": 2},
        "ffn_norm": None,
        "ffn": {"name": "affine"},
    }
    torch.manual_seed(0)
    model = TransformerLM(TransformerConfig(vocab_size=20, d_model=8, layers=[layer, layer], final_norm=None)).double()
    with torch.no_grad():
        model.embed_tokens.weight.normal_()
        for block in model.layers:
            block.mixer.q.weight.zero_()
            for parameter in (*block.mixer.v.parameters(), *block.mixer.o.parameters(), *block.ffn.parameters()):
                parameter.normal_(std=0.3)
    return model.eval()


@pytest.mark.parametrize("ablation", ["resample", "mean", "zero"])
def test_in_a_linear_model_a_score_is_what_taking_the_edge_away_does(ablation) -> None:
    prompts = random_prompts(20)
    graph = graph_of(linear_model(), prompts)
    case = graph.case(prompts, ablation)
    found = scores(graph, case, 1)
    edges = graph.edges.nonzero().tolist()
    circuits = graph.edges.repeat(len(edges) + 1, 1, 1)
    for row, (writer, reader) in enumerate(edges):
        circuits[row, writer, reader] = False
    odds = curves.odds(graph, [case], circuits)
    expected = [each - odds[-1] for each in odds[:-1]]
    assert [float(found[w, r]) for w, r in edges] == pytest.approx(expected, abs=1e-9)
    assert max(map(abs, expected)) > 0.05


def test_patching_with_the_own_output_changes_nothing_and_the_last_block_is_everything() -> None:
    model, prompts = tiny("llama"), random_prompts(VOCABULARY)
    sites = [s for s in find_sites(model) if s.kind in ("ffn", "mixer", "block")]
    with torch.no_grad():
        clean, odds = patching.watched(model, sites, prompts, prompts.clean)
        for site in sites:
            again = patching.patched(model, site, clean[site.name], prompts, prompts.clean)
            assert torch.equal(again, odds)
    found = patching.shares(patching.effects(model, sites, [prompts], lambda *told: None))
    assert found["layers.1"]["resample"] == pytest.approx(0.0, abs=1e-5)
    assert found["layers.1"]["restored"] == pytest.approx(1.0, abs=1e-5)
    assert found["layers.0.ffn"]["restored"] != pytest.approx(0.0, abs=1e-3)


def test_sizes_and_choices() -> None:
    assert curves.sizes(7) == [1, 2, 5, 7]
    assert curves.sizes(100) == [1, 2, 5, 10, 20, 50, 100]
    edges = torch.tensor([[True, True], [False, True]])
    ranked = torch.tensor([[0.1, -3.0], [9.0, 2.0]])
    assert curves.best(ranked, edges, 2).tolist() == [[False, True], [False, True]]
    assert int(curves.chance(edges, 2, torch.Generator().manual_seed(0)).sum()) == 2
