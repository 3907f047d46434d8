"""Token windows: what is in them, that they repeat under a seed, and that too little text is an error."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from layersmith.data.windows import padded_windows, windows
from layersmith.errors import UserError

EOS, PAD, CLS = 0, 1, 2  # the ids of the special tokens


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """A word is its number plus 3; `<cls>` opens every row that asks for special tokens."""
    vocabulary = {"<eos>": EOS, "<pad>": PAD, "<cls>": CLS} | {f"w{index}": index + 3 for index in range(500)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="<cls> $A", special_tokens=[("<cls>", CLS)])
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<pad>", cls_token="<cls>")


def words(start: int, stop: int) -> str:
    return " ".join(f"w{index}" for index in range(start, stop))


def test_windows_cut_the_running_text_with_end_of_text_between_documents(tokenizer):
    got = windows([words(0, 10), words(10, 15), words(15, 30)], tokenizer, length=8, count=4)
    running = [*range(3, 13), EOS, *range(13, 18), EOS, *range(18, 33)]
    expected = {tuple(running[start : start + 8]) for start in range(0, 32, 8)}
    assert {tuple(row) for row in got.input_ids.tolist()} == expected
    assert got.input_ids.dtype == torch.long
    assert got.attention_mask is None
    assert len(got) == 4


def test_a_sample_is_without_replacement_and_follows_its_seed(tokenizer):
    documents = [words(0, 400)]
    first = windows(documents, tokenizer, 8, 20, seed=1).input_ids
    assert len({tuple(row) for row in first.tolist()}) == 20
    assert torch.equal(first, windows(documents, tokenizer, 8, 20, seed=1).input_ids)
    assert not torch.equal(first, windows(documents, tokenizer, 8, 20, seed=2).input_ids)


def test_text_shorter_than_a_window_is_an_error(tokenizer):
    with pytest.raises(UserError, match=r"7 tokens, which is 0 window\(s\) of 8, and 1 are needed \(8 tokens\)"):
        windows([words(0, 7)], tokenizer, 8, 1)
    with pytest.raises(UserError, match="0 tokens"):
        windows([], tokenizer, 8, 1)
    with pytest.raises(UserError, match="length=0"):
        windows([words(0, 7)], tokenizer, 0, 1)


def test_at_least_takes_what_a_shorter_text_has(tokenizer):
    assert len(windows([words(0, 30)], tokenizer, 8, 10, at_least=3)) == 3
    assert len(windows([words(0, 30)], tokenizer, 8, 2, at_least=3)) == 2
    with pytest.raises(UserError, match=r"3 window\(s\) of 8, and 4 are needed"):
        windows([words(0, 30)], tokenizer, 8, 10, at_least=4)
    assert len(padded_windows([words(0, 3) + "\n\n" + words(3, 6)], tokenizer, 6, 5, at_least=1)) == 2
    with pytest.raises(UserError, match=r"hold 2 paragraph\(s\), and 3 are needed"):
        padded_windows([words(0, 3) + "\n\n" + words(3, 6)], tokenizer, 6, 5, at_least=3)


def test_padded_rows_are_paragraphs_with_special_tokens(tokenizer):
    got = padded_windows([words(0, 3) + "\n\n" + words(3, 20), "\n \n" + words(20, 22)], tokenizer, 6, 3)
    rows = {
        tuple(row): tuple(mask) for row, mask in zip(got.input_ids.tolist(), got.attention_mask.tolist(), strict=True)
    }
    assert rows == {
        (CLS, 3, 4, 5, PAD, PAD): (1, 1, 1, 1, 0, 0),
        (CLS, 6, 7, 8, 9, 10): (1, 1, 1, 1, 1, 1),
        (CLS, 23, 24, PAD, PAD, PAD): (1, 1, 1, 0, 0, 0),
    }


def test_padded_windows_refuse_too_few_paragraphs_and_a_tokenizer_that_cannot_pad(tokenizer):
    with pytest.raises(UserError, match=r"hold 1 paragraph\(s\), and 2 are needed"):
        padded_windows([words(0, 3)], tokenizer, 6, 2)
    tokenizer.pad_token = None
    with pytest.raises(UserError, match="no padding token"):
        padded_windows([words(0, 3)], tokenizer, 6, 1)
