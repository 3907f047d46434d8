"""What people do with a model of transformers gives the same with a result that computes the same.

The results here hold operators of ours in place of the model's own feed-forwards and attentions, with their weights,
so every answer of the stock model is the answer expected. A result with recurrent mixers has no such twin: it is
compared with itself, one sequence at a time.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

from layersmith import catalogue
from layersmith.anatomy import find_sites, recognise, replacement_for
from layersmith.anatomy.edit import apply
from layersmith.checkpoint import load, save
from layersmith.errors import UserError
from tests.anatomy.families import BY_NAME
from tests.checkpoint.edited import edited

#: Tokens that repeat, so that looking them up in the prompt proposes some, which the model then refuses.
REPEATING = torch.tensor([[5, 6, 7, 8, 5, 6, 7, 8, 5, 6]])
IDS = torch.randint(3, 96, (1, 9), generator=torch.Generator().manual_seed(5))
ROWS = torch.randint(3, 96, (4, 8), generator=torch.Generator().manual_seed(6))
GREEDY = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
#: Of 4 rows of 8 tokens, which are real: padding left, right and inside, and a row without any token.
MASK = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 0, 1, 1], [0] * 8])


def twins(tmp_path: Any, *kinds: str) -> tuple[Any, Any]:
    """(a Llama, the result that computes the same by operators of ours at its sites of these kinds)."""
    stock = BY_NAME["llama"].model()
    changed, edits = copy.deepcopy(stock), []
    anatomy = find_sites(stock)
    for site in (s for s in anatomy.sites if s.kind in kinds):
        for edit, module in replacement_for(stock, site, recognise.recognise(stock, site).operator):
            edits.append((edit, module))
    apply(changed, edits)
    save(changed, [edit for edit, _ in edits], tmp_path / "twin")
    return stock, load(tmp_path / "twin")[0]


def logits(model: Any, **inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model(**inputs).logits


@pytest.fixture
def pair(tmp_path):
    return twins(tmp_path, "ffn", "mixer")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
        {"repetition_penalty": 1.8, "no_repeat_ngram_size": 2},
        {"do_sample": True, "temperature": 0.7, "top_k": 5},
        {"use_cache": False},
        {"bad_words_ids": [[7]], "suppress_tokens": [9, 11]},
    ],
    ids=lambda options: ",".join(options) or "greedy",
)
def test_every_way_to_write(pair, options):
    stock, twin = pair
    written = []
    for model in (stock, twin):
        torch.manual_seed(0)
        written.append(model.generate(ROWS[:3], **{**GREEDY, **options}))
    assert torch.equal(*written)


@pytest.mark.parametrize("kinds", [("ffn",), ("ffn", "mixer")], ids="+".join)
def test_speculation_writes_what_greedy_decoding_does(tmp_path, kinds):
    """With an assistant, as an assistant, and by looking tokens up in the prompt."""
    stock, twin = twins(tmp_path, *kinds)
    speculates(twin, stock)
    assert torch.equal(twin.generate(REPEATING, **GREEDY), stock.generate(REPEATING, **GREEDY))


#: Results whose sublayers keep nothing, or keys and values of every token: what was tried can be taken back.
TAKES_BACK: dict[str, dict[str, Any]] = {
    "a dropped attention": {"ffn": {"name": "glu", "d_hidden": 16}, "layers_1_attn": {"name": "zero"}},
    "keys and values": {"attn": {"name": "softmax_attention", "n_heads": 4, "rope_theta": 1e4}},
    "one matrix": {"attn": {"name": "fused_attention", "n_heads": 4, "n_kv_heads": 2, "rope_theta": 1e4}},
    "centred": {"attn": {"name": "shaped_attention", "n_heads": 4}},
    "partial": {"attn": {"name": "partial_attention", "n_heads": 4}},
    "a window as long as the text": {"attn": {"name": "softmax_attention", "n_heads": 4, "window": 64}},
}
#: Results that cannot, with the layers and mixers to blame.
FORGETS: dict[str, tuple[dict[str, Any], str]] = {
    "linear": ({"attn": {"name": "linear_attention", "n_heads": 4}}, r"layers 0, 1 \(LinearAttention\)"),
    "delta rule": ({"layers_1_attn": {"name": "deltanet", "n_heads": 4}}, r"layers 1 \(DeltaNet\)"),
    "window": ({"layers_0_attn": {"name": "softmax_attention", "n_heads": 4, "window": 4}}, r"layers 0 \(SoftmaxA"),
}


def result_of(tmp_path: Any, parts: dict[str, Any], family: str = "llama") -> Any:
    _, changed, edits = edited(family, **parts)
    save(changed, edits, tmp_path / "result")
    return load(tmp_path / "result")[0]


def speculates(model: Any, other: Any) -> None:
    """Assert that the model writes what it writes greedily: with the other as its assistant, with look-ups, as one."""
    for ids in (IDS, REPEATING):
        expected = model.generate(ids, **GREEDY)
        assert torch.equal(model.generate(ids, **GREEDY, assistant_model=other), expected)
        assert torch.equal(model.generate(ids, **GREEDY, prompt_lookup_num_tokens=3), expected)
        assert torch.equal(other.generate(ids, **GREEDY, assistant_model=model), other.generate(ids, **GREEDY))


@pytest.mark.parametrize("parts", TAKES_BACK.values(), ids=TAKES_BACK.keys())
def test_speculation_where_tokens_can_be_taken_back(tmp_path, parts):
    speculates(result_of(tmp_path, parts), BY_NAME["llama"].model())


@pytest.mark.parametrize("parts", [parts for parts, _ in FORGETS.values()], ids=FORGETS.keys())
def test_speculation_where_the_cache_records_the_past(tmp_path, parts):
    """Mistral has windows of its own, so transformers has its cache record: then any state can be taken back."""
    speculates(result_of(tmp_path, parts, "mistral"), BY_NAME["mistral"].model())


@pytest.mark.parametrize(("parts", "said"), FORGETS.values(), ids=FORGETS.keys())
def test_speculation_with_a_state_that_forgets_is_refused(tmp_path, parts, said):
    """It cannot be rolled back: wrong tokens would be the alternative."""
    result, stock = result_of(tmp_path, parts), BY_NAME["llama"].model()
    for options in ({"assistant_model": stock}, {"prompt_lookup_num_tokens": 3}):
        with pytest.raises(UserError, match=said) as refused:
            result.generate(REPEATING, **GREEDY, **options)
        assert "rolled back" in str(refused.value)
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=said):
        stock.generate(REPEATING, **GREEDY, assistant_model=result)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_padding_left_right_inside_and_everywhere(pair, implementation):
    stock, twin = pair
    inputs = {"input_ids": ROWS, "attention_mask": MASK}
    for model in (stock, twin):
        model.set_attn_implementation(implementation)
    expected, found = logits(stock, **inputs), logits(twin, **inputs)
    real = MASK.bool()
    for row in (0, 1):
        torch.testing.assert_close(found[row][real[row]], expected[row][real[row]], rtol=1e-4, atol=1e-4)
    # Stock models count padding between tokens as distance, ours do not: there the row is held against itself, alone.
    alone = logits(stock, input_ids=ROWS[2][real[2]][None])[0]
    torch.testing.assert_close(found[2][real[2]], alone, rtol=1e-4, atol=1e-4)
    assert found.isfinite().all()


def test_a_prompt_in_pieces_and_a_batch_of_mixed_lengths(pair):
    stock, twin = pair
    for model in (stock, twin):
        first = model(ROWS[:, :5], use_cache=True)
        rest = model(ROWS[:, 5:], past_key_values=first.past_key_values, use_cache=True)
        pieces = torch.cat([first.logits, rest.logits], dim=1)
        torch.testing.assert_close(pieces, model(ROWS).logits, rtol=1e-4, atol=1e-4)
    inputs = {"input_ids": ROWS[:2], "attention_mask": MASK[:2].flip(1).sort(1).values}
    assert torch.equal(twin.generate(**inputs, **GREEDY), stock.generate(**inputs, **GREEDY))


def test_training_with_gradient_checkpointing(pair):
    """The gradients of the stock model, with and without recomputation, and they reach the same tensors."""
    found = []
    for model in pair:
        for checkpointing in (False, True):
            model.train()
            if checkpointing:
                model.gradient_checkpointing_enable()
            model.zero_grad()
            model(ROWS, labels=ROWS).loss.backward()
            found.append(model.get_input_embeddings().weight.grad.clone())
            untouched = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
            assert not untouched
    for gradient in found[1:]:
        torch.testing.assert_close(gradient, found[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_another_dtype(pair, dtype):
    stock, twin = (model.to(dtype) for model in pair)
    found, expected = logits(twin, input_ids=ROWS), logits(stock, input_ids=ROWS)
    assert found.dtype == dtype
    scale = expected.abs().max().item()  # tables of rotations are in float32, whatever the model is in
    torch.testing.assert_close(found, expected, rtol=0, atol=scale * max(1e-5, 40 * torch.finfo(dtype).eps))


def test_compiled_exported_copied_and_saved_again(pair, tmp_path):
    _, twin = pair
    expected = logits(twin, input_ids=ROWS)
    compiled: Any = torch.compile(copy.deepcopy(twin), backend="aot_eager")
    torch.testing.assert_close(logits(compiled, input_ids=ROWS), expected, rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()
    exported = torch.export.export(copy.deepcopy(twin), (), {"input_ids": ROWS, "use_cache": False}, strict=False)
    torch.testing.assert_close(
        logits(exported.module(), input_ids=ROWS, use_cache=False), expected, rtol=1e-4, atol=1e-4
    )
    assert torch.equal(logits(copy.deepcopy(twin), input_ids=ROWS), expected)
    twin.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(tf.AutoModelForCausalLM.from_pretrained(tmp_path / "again"), input_ids=ROWS), expected)


def recurrent(tmp_path: Any, mixer: str) -> Any:
    """A Llama whose attention is another mixer of the catalogue, saved and loaded."""
    sizes = {key: value for key, value in catalogue.entry(mixer).example.items() if key not in ("d_model", "n_heads")}
    _, changed, edits = edited(attn={"name": mixer, "n_heads": 4, **sizes})
    save(changed, edits, tmp_path / mixer)
    return load(tmp_path / mixer)[0]


@pytest.mark.parametrize("mixer", ["linear_attention", "deltanet", "softmax_attention", "mesa", "partial_attention"])
def test_a_hybrid_reads_each_row_as_if_it_were_alone(tmp_path, mixer):
    """Padding left, right and inside; a row of padding only harms no other; then it writes with its cache."""
    model = recurrent(tmp_path, mixer)
    together = logits(model, input_ids=ROWS, attention_mask=MASK)
    near = {"rtol": 1e-3, "atol": 1e-3 * together[:3].abs().max().item()}
    for row, mask, found in zip(ROWS[:3], MASK[:3].bool(), together[:3], strict=True):
        torch.testing.assert_close(found[mask], logits(model, input_ids=row[mask][None])[0], **near)
    first = model(ROWS[:1, :5], use_cache=True)
    rest = model(ROWS[:1, 5:], past_key_values=first.past_key_values, use_cache=True).logits
    torch.testing.assert_close(rest, logits(model, input_ids=ROWS[:1])[:, 5:], **near)
    assert torch.equal(model.generate(IDS, **GREEDY), model.generate(IDS, **GREEDY, use_cache=False))
