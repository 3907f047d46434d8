"""What every mixer promises, checked in float64: chunks = whole, decoding = whole, no leak, padding is invisible."""

import pytest
import torch

from layersmith.mixer.aft import AFT
from layersmith.mixer.atlas import Atlas
from layersmith.mixer.bi_rwkv import BiRWKV
from layersmith.mixer.deltanet import DeltaNet
from layersmith.mixer.exponential_smoothing import ExponentialSmoothing
from layersmith.mixer.frequency_attention import FrequencyAttention
from layersmith.mixer.galerkin import GalerkinAttention
from layersmith.mixer.gated_deltanet import GatedDeltaNet
from layersmith.mixer.gla import GLA
from layersmith.mixer.linear_attention import LinearAttention
from layersmith.mixer.lion import Lion
from layersmith.mixer.mesa import Mesa
from layersmith.mixer.partial import PartialAttention
from layersmith.mixer.retnet import RetNet
from layersmith.mixer.shaped_attention import ShapedAttention
from layersmith.mixer.sla import SimplifiedLinearAttention
from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.mixer.toeplitz_attention import ToeplitzAttention

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
    "gated-deltanet": lambda: GatedDeltaNet(16, 4, n_kv_heads=2, rope_theta=100.0, chunk=8),
    "gated-deltanet-rope": lambda: GatedDeltaNet(16, 2, conv=None, rope_theta=100.0, qk_norm=True),
    "gla": lambda: GLA(16, 4, n_kv_heads=2, tau=1.0, chunk=8),
    "aft-simple": lambda: AFT(16),
    "aft-full": lambda: AFT(16, kind="full", max_tokens=1000, rank=4),
    "aft-local": lambda: AFT(16, kind="local", max_tokens=1000, rank=4, window=5),
    "aft-conv": lambda: AFT(16, kind="conv", window=5, n_heads=2),
    "atlas": lambda: Atlas(16, 4, n_kv_heads=2, window=3, step=4),
    "exponential-smoothing": lambda: ExponentialSmoothing(16, 4, chunk=8),
    "galerkin": lambda: GalerkinAttention(16, 4, n_kv_heads=2, causal=True, chunk=8, eps=1e-2),
    "linear-favor": lambda: LinearAttention(16, 4, n_kv_heads=2, feature_map="favor", features=6, chunk=8),
    "linear-out-norm": lambda: LinearAttention(16, 4, normalize=False, out_norm=True, eps=1e-3),
    "mesa-forgetting": lambda: Mesa(16, 4, n_kv_heads=2, rope_theta=100.0, forget=True, learn_lam=True, chunk=8),
    "sla": lambda: SimplifiedLinearAttention(16, 4, n_kv_heads=2, rope_theta=100.0, kernel=3, chunk=8),
    "toeplitz": lambda: ToeplitzAttention(16, 4, n_kv_heads=2, max_distance=7),
    "retnet": lambda: RetNet(16, 4, n_kv_heads=2, rope_theta=100.0),
}
WHOLE = {
    "softmax": lambda: SoftmaxAttention(16, 4, causal=False, rope_theta=100.0),
    "softmax-window": lambda: SoftmaxAttention(16, 4, causal=False, window=2),
    "shaped": lambda: ShapedAttention(16, 4, causal=False, tau=0.5),
    "linear": lambda: LinearAttention(16, 4, n_kv_heads=2, causal=False, feature_map="relu"),
    "aft-simple": lambda: AFT(16, causal=False),
    "aft-conv": lambda: AFT(16, causal=False, kind="conv", window=3),
    "bi-rwkv": lambda: BiRWKV(16),
    "fourier": lambda: GalerkinAttention(16, 4, n_kv_heads=2, kind="fourier"),
    "frequency": lambda: FrequencyAttention(16, k=1),
    "galerkin": lambda: GalerkinAttention(16, 4, n_kv_heads=2),
    "lion": lambda: Lion(16, 4, n_kv_heads=2, rope_theta=100.0, chunk=8),
    "lion-fixed": lambda: Lion(16, 4, decay="fixed", feature_map="elu1"),
    "sla": lambda: SimplifiedLinearAttention(16, 4, n_kv_heads=2, causal=False, kernel=3),
    "toeplitz": lambda: ToeplitzAttention(16, 4, n_kv_heads=2, causal=False, max_distance=3),
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
