import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from layersmith.measuring.token_bytes import token_bytes

TEXTS = ["def añadir(x):\n\treturn x  # 數字 🙂", "plain text, twice: plain text", "\r\n  é\x00"]


def test_byte_level_tokens_add_up_to_the_bytes_of_the_text() -> None:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    sizes = token_bytes(tokenizer)
    assert sizes is not None
    assert len(sizes) == 300
    assert sizes[tokenizer.eos_token_id] == 0
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert len(ids) < len(text.encode())  # merges happened
        assert int(sizes[ids].sum()) == len(text.encode())


def test_sentencepiece_with_byte_fallback() -> None:
    pieces = {"<unk>": 0, "▁plain": 1, "▁te": 2, "xt": 3, "<0xC3>": 4, "<0xA9>": 5}
    backend = Tokenizer(models.BPE(pieces, [], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    sizes = token_bytes(tokenizer)
    assert sizes is not None
    assert sizes.tolist() == [0, 6, 3, 2, 1, 1]


@pytest.mark.parametrize("decoder", [decoders.WordPiece(), None])
def test_a_tokenizer_that_loses_text_is_unknown(decoder: object) -> None:
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    if decoder is not None:
        backend.decoder = decoder
    assert token_bytes(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")) is None
