"""Rows of token ids: what is in them, that they repeat under a seed and never among themselves."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

from layersmith.data.examples import Reader
from layersmith.data.windows import beginning, check_vocabulary, paragraphs, windows
from layersmith.errors import UserError
from tests.refitting.conftest import tiny_llama

EOS, PAD, CLS = 0, 1, 2  # the ids of the special tokens


def make(opens: str = "cls", eos: str = "<eos>") -> PreTrainedTokenizerFast:
    """A word is its number plus 3; `<cls>` opens every row, as the `cls` or the `bos` token, or (None) nothing does."""
    vocabulary = {"<eos>": EOS, "<pad>": PAD, "<cls>": CLS} | {f"w{index}": index + 3 for index in range(500)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {f"{opens}_token": "<cls>"} if opens else {"bos_token": "<cls>"}
    if opens:
        backend.post_processor = processors.TemplateProcessing(single="<cls> $A", special_tokens=[("<cls>", CLS)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, pad_token="<pad>", **special)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make()


def words(start: int, stop: int) -> str:
    return " ".join(f"w{index}" for index in range(start, stop))


def test_windows_cut_the_running_text_with_end_of_text_between_documents(tokenizer):
    got = windows([words(0, 10), words(10, 15), words(15, 30)], tokenizer, length=8, count=4)
    running = [*range(3, 13), EOS, *range(13, 18), EOS, *range(18, 33)]
    assert {tuple(row) for row in got.tolist()} == {tuple(running[start : start + 8]) for start in range(0, 32, 8)}
    assert got.dtype == torch.long


def test_a_sample_is_without_replacement_and_follows_its_seed(tokenizer):
    documents = [words(0, 400)]
    first = windows(documents, tokenizer, 8, 20, seed=1)
    assert len({tuple(row) for row in first.tolist()}) == 20
    assert torch.equal(first, windows(documents, tokenizer, 8, 20, seed=1))
    assert not torch.equal(first, windows(documents, tokenizer, 8, 20, seed=2))


def test_a_shorter_text_gives_what_it_has(tokenizer):
    assert windows([words(0, 30)], tokenizer, 8, 10).shape == (3, 8)
    assert windows([words(0, 7)], tokenizer, 8, 1).shape == (0, 8)
    assert windows([], tokenizer, 8, 1).shape == (0, 8)
    with pytest.raises(UserError, match="length=0"):
        windows([words(0, 7)], tokenizer, 0, 1)


def test_windows_begin_as_texts_did_in_training():
    """With the beginning-of-text token where the tokenizer puts it first, once; not where it merely knows one."""
    assert beginning(make("bos")) == [CLS]
    assert beginning(make("cls")) == []
    assert beginning(make("")) == []
    got = windows([words(0, 30)], make("bos"), length=8, count=4)
    assert sorted(got.tolist()) == [[CLS, *range(start, start + 7)] for start in (3, 10, 17, 24)]
    with pytest.raises(UserError, match="length=1"):
        windows([words(0, 30)], make("bos"), length=1, count=4)


def test_the_beginning_of_text_is_never_there_twice():
    """Where it also ends a text, or a text spells it out, it would come to stand at the start of a window again."""
    ends_with_it = make("bos", eos="<cls>")
    got = windows([words(0, 7), words(7, 14), "<cls> <cls> " + words(14, 21)], ends_with_it, length=8, count=9)
    assert sorted(got.tolist()) == [[CLS, *range(start, start + 7)] for start in (3, 10, 17)]


def test_windows_that_repeat_are_used_once_and_never_for_a_second_purpose(tokenizer):
    documents = [words(0, 8)] * 50 + [words(8, 16)]
    tokenizer.eos_token = None
    assert sorted(windows(documents, tokenizer, 8, 50).tolist()) == [[*range(3, 11)], [*range(11, 19)]]
    seen = set()
    assert len(windows(documents, tokenizer, 8, 1, seen=seen)) == 1
    assert len(windows(documents, tokenizer, 8, 50, seen=seen)) == 1
    assert len(windows(documents, tokenizer, 8, 50, seen=seen)) == 0


def test_rows_are_paragraphs_with_special_tokens_and_a_long_one_goes_on_in_the_next(tokenizer):
    documents = [words(0, 3) + "\n\n" + words(3, 11), "\n \n" + words(20, 22)]
    got = {tuple(row.tolist()) for row in paragraphs(documents, tokenizer, 6, tokens=100)}
    assert got == {(CLS, 3, 4, 5), (CLS, 6, 7, 8, 9, 10), (CLS, 11, 12, 13), (CLS, 23, 24)}


def test_as_many_paragraphs_as_hold_the_tokens_asked_for(tokenizer):
    documents = ["\n\n".join(words(start, start + 1 + start % 3) for start in range(0, 400))]
    got = paragraphs(documents, tokenizer, 6, tokens=200)
    assert 200 <= sum(len(row) for row in got) < 206
    again = paragraphs(documents, tokenizer, 6, tokens=200)
    assert [row.tolist() for row in got] == [row.tolist() for row in again]
    seen = {b""}
    first = {tuple(row.tolist()) for row in paragraphs(documents, tokenizer, 6, 200, seen=seen)}
    assert not first & {tuple(row.tolist()) for row in paragraphs(documents, tokenizer, 6, 200, seen=seen)}
    assert len(paragraphs([words(0, 3) + "\n\n" + words(0, 3)], tokenizer, 6, 100)) == 1
    with pytest.raises(UserError, match="beside 1 special ones; got length=1"):
        paragraphs(documents, tokenizer, 1, 100)


class Embedded(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.table = nn.Embedding(size, 4)

    def get_input_embeddings(self) -> nn.Module:
        return self.table


def test_an_id_beyond_the_embedding_is_named(tokenizer):
    rows = [torch.tensor([3, 4]), torch.tensor([102])]
    check_vocabulary(Embedded(103), tokenizer, rows)
    check_vocabulary(nn.Linear(2, 2), tokenizer, rows)
    with pytest.raises(UserError, match=r"token id 102 \('w99'\).*102 rows, for ids up to 101"):
        check_vocabulary(Embedded(102), tokenizer, rows)


def test_a_tokenizer_that_fails_is_blamed_by_its_class(tmp_path):
    """Another model's tokenizer class over this model's files: it opens, and fails at the first unknown word."""
    backend = Tokenizer(models.WordLevel({"w1": 0}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    (tmp_path / "book.txt").write_text("\n\n".join(f"{words(start, start + 200)}." for start in range(900)))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    reader = Reader(tiny_llama(layers=1), tokenizer, str(tmp_path / "book.txt"), length=32)
    with pytest.raises(UserError, match=r"cannot turn this text into tokens: .*UNK"):
        reader.read("calibration", 256)
