import pytest

from layersmith.errors import UserError
from layersmith.measuring.shape import Shape, parse_shape


@pytest.mark.parametrize("text", ["prefill=1x512", "decode=8x1"])
def test_parse_and_str_round_trip(text: str) -> None:
    assert str(parse_shape(text)) == text


def test_parse_reads_batch_and_tokens() -> None:
    assert parse_shape(" decode = 2x128 ") == Shape("decode", 2, 128)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("512", "PHASE=BATCHxTOKENS"),
        ("prefill=512", "PHASE=BATCHxTOKENS"),
        ("prefill=1x-5", "PHASE=BATCHxTOKENS"),
        ("warmup=1x512", "names the phase 'warmup'"),
        ("prefill=0x512", "at least 1"),
        ("decode=1x0", "at least 1"),
    ],
)
def test_a_wrong_shape_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_shape(text)
