"""A token at a time over a cache with room: the compiled kernel against softmax attention in float64; its limits."""

import pytest
import torch
from torch import library

from layersmith.kernels import cached, native
from layersmith.mixer.fused_attention import FusedAttention
from layersmith.mixer.shared import key_values
from tests.mixer.test_fused_attention import pair

CONFIGS = [
    {"rope_theta": 100.0},
    {"n_kv_heads": 2, "rope_theta": 100.0},
    {"n_kv_heads": 1, "head_dim": 6, "bias": True, "out_bias": True, "scale": 0.3},
    {"n_kv_heads": 2, "head_dim": 20, "rope_theta": 100.0, "rope_fraction": 0.5, "rope_interleaved": True},
    {"n_kv_heads": 2, "head_dim": 64, "rope_theta": 1e4, "rope_interleaved": True},
]
NOT_PLAIN = [{"window": 5}, {"log_length": True}, {"qk_norm": True}]


@pytest.fixture
def served(monkeypatch):
    """How many tokens the kernel has taken."""
    if not native.loaded():
        pytest.skip("the kernels have not been built: run `layersmith compile`")
    calls, run = [], cached.attend_one
    monkeypatch.setattr(cached, "attend_one", lambda *args, **settings: calls.append(1) or run(*args, **settings))
    return calls


def step_by_step(part, x, first):
    """Outputs of the first tokens at once and then of one after another, the last state with them."""
    parts, state = [], None
    for piece in x.split([first, *[1] * (x.shape[1] - first)], dim=1):
        y, state = part(piece, state)
        state = part.settled(state)
        parts.append(y)
    return torch.cat(parts, 1), state


@torch.no_grad()
@pytest.mark.oracle("fused_attention")
@pytest.mark.parametrize("way", ["compiled", "plain"])
@pytest.mark.parametrize("config", CONFIGS)
def test_equals_softmax_attention(config, way, served, monkeypatch):
    monkeypatch.setattr(key_values, "ROOM", 16)  # the room is used up twice
    if way == "plain":
        monkeypatch.setattr(native, "_load", lambda: False)
    plain, fused = pair(config)
    x = torch.randn(1, 40, 16, dtype=torch.float64)
    x[:, 3] *= 30  # one score far above the others
    want, state = plain(x)
    got, kept = step_by_step(fused.float(), x.float(), 3)
    assert (len(served) > 30) == (way == "compiled")
    torch.testing.assert_close(got.double(), want, atol=2e-6 * float(want.abs().max()), rtol=0)
    for name in state:
        torch.testing.assert_close(kept[name].double(), state[name].double(), atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_many_tokens_on_any_number_of_threads(served):
    torch.manual_seed(0)
    plain, fused = pair({"n_kv_heads": 2, "head_dim": 64, "rope_theta": 1e4})
    x = torch.randn(1, 700, 16, dtype=torch.float64)
    want, before, found = plain(x)[0][:, -9:], torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(step_by_step(fused.float(), x.float(), 691)[0][:, -9:])
    finally:
        torch.set_num_threads(before)
    assert len(served) >= 16
    for got in found:
        torch.testing.assert_close(got.double(), want, atol=2e-6 * float(want.abs().max()), rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("config", NOT_PLAIN)
def test_what_the_kernel_does_not_compute_is_left_to_the_reference(config, served):
    plain, fused = pair({"rope_theta": 100.0, **config})
    x = torch.randn(1, 12, 16, dtype=torch.float64)
    got, _ = step_by_step(fused.float(), x.float(), 4)
    torch.testing.assert_close(got.double(), plain(x)[0], atol=1e-5, rtol=0)
    assert not served


@torch.no_grad()
def test_only_one_token_of_one_text_in_float32_without_a_mask_is_served(served):
    _, fused = pair(CONFIGS[1])
    fused.float()
    x = torch.randn(2, 9, 16)
    for batch, dtype in ((2, torch.float32), (1, torch.float64), (1, torch.bfloat16)):
        step_by_step(fused.to(dtype), x[:batch].to(dtype), 7)
    fused.float()
    state = fused.settled(fused(x[:1, :6])[1])
    fused(x[:1, 6:8], state)
    fused(x[:1, 6:7], state, mask=torch.ones(1, 1, dtype=torch.bool))
    masked = fused.settled(fused(x[:1, :6], mask=torch.ones(1, 6, dtype=torch.bool))[1])
    fused(x[:1, 6:7], masked)
    fused(x[:1, 6:7], fused(x[:1, :6])[1])  # without room
    with torch.autocast("cpu", torch.bfloat16):
        step_by_step(fused, x[:1], 6)
    with torch.enable_grad():
        fused(x[:1, 6:7], state)
    assert not served
    fused(x[:1, 6:7], state)
    assert len(served) == 1


def test_a_room_from_inference_mode_is_not_written_to_outside_of_it(served):
    fused, x = FusedAttention(16, 4), torch.randn(1, 9, 16)
    with torch.inference_mode():
        _, state = step_by_step(fused, x, 4)
    assert served
    before = len(served)
    with torch.no_grad():
        fused(x[:, :1], state)
    assert len(served) == before


@torch.no_grad()
def test_torch_s_rules_for_operators():
    if not native.loaded():
        pytest.skip("the kernels have not been built: run `layersmith compile`")
    rooms = torch.randn(1, 2, 8, 6), torch.randn(1, 2, 8, 6)
    arguments = (torch.randn(1, 1, 48), torch.randn(4, 2, 6), 3, *rooms, 5, 4, 0.4, False)
    rules = ("test_schema", "test_faketensor")
    library.opcheck(torch.ops.layersmith.attend_one.default, arguments, test_utils=rules)
