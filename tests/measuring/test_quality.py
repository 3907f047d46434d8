import math

import pytest
import torch
from torch import Tensor, nn

from layersmith.errors import UserError
from layersmith.measuring.quality import TextLoss, quality


def _ids(rows: int = 3, tokens: int = 9) -> Tensor:
    return torch.randint(0, 64, (rows, tokens), generator=torch.Generator().manual_seed(0))


def test_perplexity_and_bits_per_byte_written_out(tiny: nn.Module) -> None:
    ids = _ids()
    sizes = torch.arange(64) % 5 + 1
    found = quality(tiny, [{"input_ids": ids[:2]}, {"input_ids": ids[2:]}], token_bytes=sizes)
    nats, count, text_bytes = 0.0, 0, 0
    with torch.no_grad():
        p = torch.log_softmax(tiny(ids).logits.double(), -1)
    for row in range(3):
        for t in range(8):
            following = int(ids[row, t + 1])
            nats -= float(p[row, t, following])
            count += 1
            text_bytes += int(sizes[following])
    assert found.perplexity == pytest.approx(math.exp(nats / count), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / text_bytes, rel=1e-5)
    assert found.tokens == 27
    assert (found.divergence, found.divergence_kind, found.agreement) == (None, None, None)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_never_counts(tiny: nn.Module, side: str) -> None:
    ids, padding = _ids(1, 6), torch.zeros(1, 3, dtype=torch.long)
    parts = [padding, ids] if side == "left" else [ids, padding]
    mask = torch.cat([torch.zeros_like(p) if p is padding else torch.ones_like(p) for p in parts], dim=1)
    alone = quality(tiny, [{"input_ids": ids}])
    padded = quality(tiny, [{"input_ids": torch.cat(parts, dim=1), "attention_mask": mask}])
    assert padded.tokens == 6
    assert padded.perplexity == pytest.approx(alone.perplexity, rel=1e-4)


def test_both_at_once(tiny: nn.Module, other: nn.Module) -> None:
    found = quality(other, [{"input_ids": _ids()}], against=tiny)
    assert found.divergence > 0
    assert found.divergence_kind == "kl"
    assert found.perplexity == quality(other, [{"input_ids": _ids()}]).perplexity
    assert found.bits_per_byte is None


def test_encoders_have_no_perplexity(encoder: nn.Module) -> None:
    found = quality(encoder, [{"input_ids": _ids()}], against=encoder)
    assert (found.divergence, found.divergence_kind) == (0.0, "relative_squared_error")
    assert found.perplexity is None


def test_an_encoder_decoder_is_compared_on_its_decoder_tokens(encoder_decoder: nn.Module) -> None:
    mask = torch.tensor([[1, 1, 1, 0]])
    batch = {"input_ids": _ids(1, 9), "decoder_input_ids": _ids(1, 4), "decoder_attention_mask": mask}
    found = quality(encoder_decoder, [batch], against=encoder_decoder)
    assert (found.tokens, found.divergence, found.divergence_kind) == (3, 0.0, "kl")
    assert found.perplexity is None


def test_a_hopeless_model_has_a_finite_perplexity() -> None:
    loss = TextLoss()
    logits = torch.zeros(1, 2, 2)
    logits[0, 0, 0] = 1e6
    loss.add(logits, torch.tensor([[0, 1]]))
    assert math.isfinite(loss.perplexity)
    assert loss.perplexity > 1e300


def test_nan_and_no_text_are_refused(tiny: nn.Module) -> None:
    with pytest.raises(UserError, match="no batch holds a real token"):
        quality(tiny, [])
    tiny.model.norm.weight.data[0] = float("nan")
    with pytest.raises(UserError, match="NaN or infinite"):
        quality(tiny, [{"input_ids": _ids()}])
