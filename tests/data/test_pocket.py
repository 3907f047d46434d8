"""pocket: stock transformers loads it, its tokenizer loses nothing, and its card's held-out numbers come out again."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from layersmith import pocket
from layersmith.data.text import split_of, units

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_pocket.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_pocket", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(pocket.path())


@pytest.fixture(scope="module")
def metrics() -> dict:
    return json.loads((pocket.path() / "metrics.json").read_text())


def test_stock_llama_loads_it_in_fp16_and_it_is_small():
    model = LlamaForCausalLM.from_pretrained(pocket.path(), dtype="auto")
    assert model.dtype == torch.float16
    assert 3_000_000 < sum(weight.numel() for weight in model.parameters()) < 5_000_000
    assert sum(file.stat().st_size for file in pocket.path().iterdir() if file.is_file()) < 10_000_000
    generated = model.generate(torch.tensor([[0]]), max_new_tokens=8, do_sample=False)
    assert generated.shape[1] <= 9


@pytest.mark.parametrize(
    "text",
    [
        "def f(x):\n\n    return x  # \u00e9\u4e2d\U0001f600\n",
        "\t\r\n\x00\x7f  trailing   ",
        "a" * 5000,
        "\ufeff\u200b \u00a0",
        " ",
    ],
)
def test_any_text_comes_back_unchanged(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_byte_has_a_token(tokenizer):
    every = "".join(map(chr, range(0x250))) + "".join(chr(0x10000 + 0x3F1 * index) for index in range(1000))
    assert tokenizer.decode(tokenizer(every)["input_ids"]) == every


def test_held_out_cost_is_the_cards_and_below_xz(script, tokenizer, metrics):
    """Three held-out files again, in fp32. On the Python that made the card, each within 0.01 bits per byte of it (the
    arithmetic of another machine moves the fourth decimal); on any Python, below what xz needs for the same files."""
    model = LlamaForCausalLM.from_pretrained(pocket.path(), dtype=torch.float32)
    files = dict(units("stdlib", "heldout"))
    names = ["gettext.py", "plistlib.py", "importlib/_abc.py"]
    bits = {name: script.bits_per_byte(model, tokenizer, files[name]) for name in names}
    same_python = metrics["python"].split(".")[:2] == [str(part) for part in sys.version_info[:2]]
    for name in names:
        assert split_of(name.split("/")[0].removesuffix(".py")) == "heldout"
        assert bits[name] < script.xz_bits_per_byte([files[name]])[0]
        if same_python:
            assert bits[name] == pytest.approx(metrics["heldout_bits_per_byte_by_file"][name], abs=0.01)


def test_the_card_states_the_measured_numbers_and_beats_xz_clearly(metrics):
    card = (pocket.path() / "README.md").read_text()
    keys = ("heldout_bits_per_byte", "xz9_bits_per_byte_one_stream", "xz9_bits_per_byte_file_by_file")
    assert all(f"{metrics[key]:.3f}" in card for key in keys)
    assert metrics["heldout_bits_per_byte"] < 0.85 * metrics["xz9_bits_per_byte_one_stream"]
    by_file = metrics["heldout_bits_per_byte_by_file"]
    assert len(by_file) == metrics["heldout_files"]


def test_xz_agrees_with_the_held_out_files(script, metrics):
    together, apart = script.xz_bits_per_byte([text for _, text in units("stdlib", "heldout")])
    assert together == pytest.approx(metrics["xz9_bits_per_byte_one_stream"], rel=0.05)  # module sources drift
    assert together < apart
