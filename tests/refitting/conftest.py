"""A tiny Llama with weights large enough to be far from linear, its calibration, and a view of each of its sites."""

import random
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import layersmith.pocket
from layersmith.anatomy import Replay, edit, find_sites
from layersmith.anatomy.head import with_head
from layersmith.measuring import latency
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.batches import Batches
from layersmith.runs.workspace import Workspace
from tests import forked

VOCABULARY = 4096  # pocket's tokenizer fits


def tiny_llama(layers=4, seed=0, act="silu"):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        initializer_range=0.15,
        tie_word_embeddings=True,
        hidden_act=act,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def token_batches(count, rows=2, length=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [{"input_ids": torch.randint(0, VOCABULARY, (rows, length), generator=generator)} for _ in range(count)]


def tiny_batches():
    return Batches(
        fit=token_batches(4, seed=1),
        holdout=token_batches(2, seed=2),
        search=token_batches(2, seed=3),
        report=token_batches(2, seed=4),
        heal=token_batches(6, seed=5),
    )


@pytest.fixture(scope="session")
def llama():
    return tiny_llama()


@pytest.fixture(scope="session")
def activations(llama, tmp_path_factory):
    anatomy = with_head(llama, find_sites(llama))
    workspace = Workspace(tmp_path_factory.mktemp("tiny") / "run", {})
    made = Activations(Replay(llama, anatomy), anatomy, tiny_batches(), workspace)
    made.calibrate()
    return made


@pytest.fixture
def view(activations):
    """`view("layers.1.ffn")`: the site with its recorded calls."""

    def at(name, **statistics):
        activations.forget()  # calls in a block are kept for its sites, and tests change weights in between
        return activations.view(activations.anatomy.site(name), 0, statistics)

    return at


@pytest.fixture
def clock_watch(monkeypatch):
    """Counts the timed runs, and the modules that are put into any model while one lasts."""
    seen = SimpleNamespace(runs=0, swaps=0, running=False)
    made, put = latency.Step.__init__, edit._set

    def watched(self, run, before=lambda: None):
        def timed():
            seen.runs, seen.running = seen.runs + 1, True
            try:
                return run()
            finally:
                seen.running = False

        made(self, timed, before)

    def counted(*given):
        seen.swaps += seen.running
        return put(*given)

    monkeypatch.setattr(latency.Step, "__init__", watched)
    monkeypatch.setattr(edit, "_set", counted)
    return seen


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A few hundred short, varied paragraphs."""
    rng = random.Random(0)
    words = ["stream", "of", "tokens", "block", "adds", "what", "it", "knows", "before", "passing", "on", "the"]
    paragraphs = [" ".join(rng.choice(words) for _ in range(40)) + f" number {i}." for i in range(400)]
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text("\n\n".join(paragraphs))
    return str(path)


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(layersmith.pocket.path())


@pytest.fixture(scope="session")
def finished(tmp_path_factory, text, tokenizer):
    """(folder, result) of one whole run. Read only: copy the folder before changing anything."""
    from tests.refitting.whole_run import run

    out = tmp_path_factory.mktemp("finished") / "run"
    with forked.reloads():  # of a wider scope than the fixture that does it for all others
        return out, run(out, text, tokenizer)


@pytest.fixture(scope="package", autouse=True)
def _forked_reloads():
    with forked.reloads():
        yield
