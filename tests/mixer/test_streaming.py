"""What every mixer promises, checked in float64: chunks = whole, decoding = whole, no leak, padding is invisible."""

import pytest
import torch

from layersmith.mixer.bidirectional_mamba import BidirectionalMamba
from layersmith.mixer.deltanet import DeltaNet
from layersmith.mixer.dfsmn import DFSMN
from layersmith.mixer.gated_deltanet import GatedDeltaNet
from layersmith.mixer.gated_fsmn import GatedFSMN
from layersmith.mixer.gated_pooling_conv import GatedPoolingConv
from layersmith.mixer.gla import GLA
from layersmith.mixer.learned_delays import LearnedDelays
from layersmith.mixer.linear_attention import LinearAttention
from layersmith.mixer.lmu import LMU
from layersmith.mixer.mamba import Mamba
from layersmith.mixer.mamba2 import Mamba2
from layersmith.mixer.partial import PartialAttention
from layersmith.mixer.pooled_attention import PooledAttention
from layersmith.mixer.retnet import RetNet
from layersmith.mixer.s4d import S4D
from layersmith.mixer.shaped_attention import ShapedAttention
from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.mixer.token_ffn import TokenFFN

CAUSAL = {
    "softmax": lambda: SoftmaxAttention(16, 4, n_kv_heads=2, rope_theta=100.0, qk_norm=True),
    "softmax-no-rope": lambda: SoftmaxAttention(16, 2, bias=True, out_bias=True),
    "softmax-window": lambda: SoftmaxAttention(16, 2, rope_theta=100.0, window=5),
    "softmax-window-of-one": lambda: SoftmaxAttention(16, 2, window=1),
    "partial": lambda: PartialAttention(16, 4, n_kv_heads=2, gated=True, rope_theta=100.0),
    "shaped": lambda: ShapedAttention(16, 4, tau=0.5),
    "linear-elu1": lambda: LinearAttention(16, 4, n_kv_heads=2, rope_theta=100.0, chunk=8),
    "linear-hedgehog": lambda: LinearAttention(16, 2, feature_map="hedgehog", qk_norm=True),
    "deltanet": lambda: DeltaNet(16, 2, chunk=8),
    "deltanet-without-convolution": lambda: DeltaNet(16, 2, conv=1),
    "gated-deltanet": lambda: GatedDeltaNet(16, 4, n_kv_heads=2, chunk=8),
    "gated-deltanet-rope": lambda: GatedDeltaNet(16, 2, conv=None, rope_theta=100.0, qk_norm=True),
    "gla": lambda: GLA(16, 4, n_kv_heads=2, tau=1.0, chunk=8),
    "retnet": lambda: RetNet(16, 4, n_kv_heads=2, rope_theta=100.0),
    "mamba2": lambda: Mamba2(16, 4, head_dim=4, d_state=6, n_groups=2, chunk=8),
    "mamba2-from-attention": lambda: Mamba2(16, 2, 4, n_groups=2, queries=2, gated=False, silu=False, conv=1),
    "mamba2-rope": lambda: Mamba2(16, 2, 4, d_state=6, n_groups=2, rope_theta=100.0, qk_norm=True, chunk=8),
    "mamba": lambda: Mamba(16, d_state=4, chunk=8),
    "s4d": lambda: S4D(16, d_state=6, chunk=8),
    "lmu": lambda: LMU(16, d_memory=5, theta=9.0, n_memories=2, chunk=8),
    "dfsmn": lambda: DFSMN(16, 24, behind=3, stride=2),
    "gated-fsmn": lambda: GatedFSMN(16, 24, taps=3, unit=2),
    "gated-pooling": lambda: GatedPoolingConv(16, 6, window=7, kernel=2),
    "learned-delays": lambda: LearnedDelays(16, delays=5),
    "token-ffn": lambda: TokenFFN(16, 6, length=1000),
}
WHOLE = {
    "softmax": lambda: SoftmaxAttention(16, 4, causal=False, rope_theta=100.0),
    "softmax-window": lambda: SoftmaxAttention(16, 4, causal=False, window=2),
    "shaped": lambda: ShapedAttention(16, 4, causal=False, tau=0.5),
    "token-ffn": lambda: TokenFFN(16, 6, length=8, causal=False),
    "bidirectional-mamba": lambda: BidirectionalMamba(16, d_state=4, chunk=4),
    "pooled": lambda: PooledAttention(16, 4, n_kv_heads=2, pool=3),
    "linear": lambda: LinearAttention(16, 4, n_kv_heads=2, causal=False, feature_map="relu"),
}


@pytest.fixture(params=CAUSAL)
def mixer(request):
    torch.manual_seed(0)
    return CAUSAL[request.param]().double().eval()


@pytest.fixture(params=WHOLE)
def whole_mixer(request):
    torch.manual_seed(0)
    return WHOLE[request.param]().double().eval()


def inputs(batch, tokens):
    return torch.randn(batch, tokens, 16, dtype=torch.float64)


def stream(mixer, x, sizes, mask=None):
    """Outputs of feeding x in chunks of the given sizes, and the last state."""
    outputs, state = [], None
    masks = [None] * len(sizes) if mask is None else mask.split(sizes, dim=1)
    for part, part_mask in zip(x.split(sizes, dim=1), masks, strict=True):
        y, state = mixer(part, state, part_mask)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 63, 1000])
def test_chunks_equal_whole(mixer, tokens):
    x = inputs(1, tokens)
    whole, state = mixer(x)
    sizes = [tokens // 3, 1, 0, tokens - tokens // 3 - 1]
    streamed, streamed_state = stream(mixer, x, sizes)
    close(streamed, whole)
    assert state.keys() == streamed_state.keys()
    for name in state:
        close(streamed_state[name], state[name])


@torch.no_grad()
def test_step_by_step_equals_whole(mixer):
    x = inputs(2, 19)
    close(stream(mixer, x, [1] * 19)[0], mixer(x)[0])


@torch.no_grad()
def test_no_token_reads_the_future(mixer):
    x = inputs(1, 40)
    changed = x.clone()
    changed[:, 21:] = inputs(1, 19)
    before, after = mixer(x)[0], mixer(changed)[0]
    close(before[:, :21], after[:, :21])
    assert (before[:, 21:] - after[:, 21:]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[12], [5, 7], [4, 1, 1, 6], [1] * 12])
def test_padding_is_invisible_left_right_and_between(mixer, sizes):
    """Each row's real tokens get the outputs they have without padding, also across chunk borders."""
    mask = torch.tensor(
        [
            [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1],  # left
            [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0],  # right
            [1, 1, 0, 0, 1, 0, 1, 1, 1, 0, 1, 1],  # between, as when padded chunks follow each other
            [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ]
    ).bool()
    x = inputs(5, 12)
    y, state = stream(mixer, x, sizes, mask)
    assert y.isfinite().all()
    for row in range(4):
        alone, _ = mixer(x[row : row + 1, mask[row]])
        close(y[row, mask[row]], alone[0])
    # The state is as good as the one without padding: an unpadded continuation agrees too.
    more = inputs(5, 3)
    continued, _ = mixer(more, state)
    for row in range(5):
        text = torch.cat((x[row, mask[row]], more[row]))[None]
        close(continued[row], mixer(text)[0][0, -3:])


@torch.no_grad()
def test_a_state_begun_without_a_mask_continues_with_one(mixer):
    x = inputs(2, 9)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1, 1]]).bool()
    y = torch.cat((mixer(x[:, :4])[0], mixer(x[:, 4:], mixer(x[:, :4])[1], mask[:, 4:])[0]), dim=1)
    for row in range(2):
        close(y[row, mask[row]], mixer(x[row : row + 1, mask[row]])[0][0])


@torch.no_grad()
def test_rows_of_a_state_can_be_reordered(mixer):
    x, more = inputs(3, 8), inputs(3, 2)
    _, state = mixer(x)
    order = torch.tensor([2, 0, 0])
    y, _ = mixer(more, {name: tensor[order] for name, tensor in state.items()})
    want, _ = mixer(torch.cat((x[order], more), dim=1))
    close(y, want[:, 8:])


@torch.no_grad()
@pytest.mark.parametrize("tokens", [0, 1, 17])
def test_state_bytes_are_those_of_the_real_state(mixer, tokens):
    _, state = mixer(inputs(3, tokens))
    assert mixer.state_bytes(tokens, batch=3) == sum(t.numel() * t.element_size() for t in (state or {}).values())


@torch.no_grad()
def test_no_tokens_and_no_sequences(mixer):
    assert mixer(inputs(2, 0))[0].shape == (2, 0, 16)
    assert mixer(inputs(0, 5))[0].shape == (0, 5, 16)
    _, state = mixer(inputs(2, 3))
    close(mixer(inputs(2, 0), state)[0], inputs(2, 0))


@torch.no_grad()
def test_long_input_in_low_precision_stays_close(mixer):
    x = inputs(1, 300)
    y, _ = mixer(x)
    low = mixer.bfloat16()(x.bfloat16())[0]
    assert low.dtype == torch.bfloat16
    assert ((low - y).norm() / y.norm()) < 0.05


def test_every_parameter_is_trained(mixer):
    y, _ = mixer(inputs(2, 11))
    y.square().sum().backward()
    for name, parameter in mixer.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@torch.no_grad()
@pytest.mark.parametrize("taken", [1, 3, 8])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["softmax", "softmax-no-rope", "partial", "shaped"])
def test_tokens_that_were_tried_are_taken_back(name, masked, taken):
    """After wrong tokens are taken back, and the right ones read, everything is as if the wrong ones had never been."""
    torch.manual_seed(0)
    mixer = CAUSAL[name]().double().eval()
    x, kept = inputs(2, 12), 9 - taken
    mask = torch.tensor([[1] * 12, [0, 1, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1]]).bool() if masked else torch.ones(2, 12).bool()
    tried = torch.cat((x[:, :kept], inputs(2, taken)), dim=1)
    _, state = stream(mixer, tried, [5, 4], mask[:, :9] if masked else None)
    back = mixer.without_last(mixer.settled(state), 9, taken)
    y, state = mixer(x[:, kept:], back, mask[:, kept:] if masked else None)
    whole, expected = mixer(x, None, mask if masked else None)
    close(y[mask[:, kept:]], whole[:, kept:][mask[:, kept:]])
    assert state.keys() == expected.keys()
    for entry in expected:
        assert torch.allclose(state[entry].double(), expected[entry].double())


@torch.no_grad()
def test_what_a_state_has_lost_is_not_taken_back():
    """A window drops what would be seen again, a sum does not tell its last terms: None, and never a wrong state."""
    for name in ("linear-elu1", "linear-hedgehog", "deltanet", "deltanet-without-convolution"):
        mixer = CAUSAL[name]().double().eval()
        assert mixer.without_last(mixer(inputs(2, 6))[1], 6, 1) is None
    mixer = CAUSAL["softmax-window"]().double().eval()  # of five tokens: a state holds four
    x = inputs(2, 9)
    assert mixer.without_last(mixer(x[:, :5])[1], 5, 1) is None
    back = mixer.without_last(mixer(torch.cat((x[:, :2], inputs(2, 2)), dim=1))[1], 4, 2)
    close(mixer(x[:, 2:], back)[0], mixer(x)[0][:, 2:])


def test_a_mask_of_the_wrong_kind_is_refused(mixer):
    with pytest.raises(ValueError, match="mask must be a bool tensor of shape"):
        mixer(inputs(2, 3), mask=torch.ones(2, 3))
    with pytest.raises(ValueError, match="mask must be a bool tensor of shape"):
        mixer(inputs(2, 3), mask=torch.ones(2, 4, dtype=torch.bool))


@torch.no_grad()
def test_whole_sequence_mixers_see_padding_nowhere(whole_mixer):
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [0] * 6]).bool()
    x = inputs(4, 6)
    y, state = whole_mixer(x, mask=mask)
    assert state is None
    assert y.isfinite().all()
    for row in range(3):
        close(y[row, mask[row]], whole_mixer(x[row : row + 1, mask[row]])[0][0])


@torch.no_grad()
def test_whole_sequence_mixers_read_the_future_and_refuse_a_state(whole_mixer):
    assert not whole_mixer.causal
    assert whole_mixer.state_bytes(5) == 0
    x = inputs(1, 6)
    changed = x.clone()
    changed[:, 1] += 1
    assert (whole_mixer(x)[0] - whole_mixer(changed)[0])[:, 0].abs().max() > 1e-4
    with pytest.raises(ValueError, match="cannot continue from a state"):
        whole_mixer(x, state={})
