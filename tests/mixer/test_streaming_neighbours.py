"""The promises of `test_streaming.py`, kept by state spaces, filters over neighbours, and what came with them."""

import pytest
import torch

from layersmith.mixer.bidirectional_mamba import BidirectionalMamba
from layersmith.mixer.dfsmn import DFSMN
from layersmith.mixer.gated_fsmn import GatedFSMN
from layersmith.mixer.gated_pooling_conv import GatedPoolingConv
from layersmith.mixer.learned_delays import LearnedDelays
from layersmith.mixer.lmu import LMU
from layersmith.mixer.mamba import Mamba
from layersmith.mixer.mamba2 import Mamba2
from layersmith.mixer.pooled_attention import PooledAttention
from layersmith.mixer.s4d import S4D
from layersmith.mixer.token_ffn import TokenFFN
from tests.mixer.test_streaming import (  # noqa: F401  each is run on the fixtures below
    test_a_mask_of_the_wrong_kind_is_refused,
    test_a_state_begun_without_a_mask_continues_with_one,
    test_chunks_equal_whole,
    test_every_parameter_is_trained,
    test_long_input_in_low_precision_stays_close,
    test_no_token_reads_the_future,
    test_no_tokens_and_no_sequences,
    test_padding_is_invisible_left_right_and_between,
    test_rows_of_a_state_can_be_reordered,
    test_state_bytes_are_those_of_the_real_state,
    test_step_by_step_equals_whole,
    test_whole_sequence_mixers_read_the_future_and_refuse_a_state,
    test_whole_sequence_mixers_see_padding_nowhere,
)

CAUSAL = {
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
    "token-ffn": lambda: TokenFFN(16, 6, length=8, causal=False),
    "bidirectional-mamba": lambda: BidirectionalMamba(16, d_state=4, chunk=4),
    "pooled": lambda: PooledAttention(16, 4, n_kv_heads=2, pool=3),
}


@pytest.fixture(params=CAUSAL)
def mixer(request):
    torch.manual_seed(0)
    return CAUSAL[request.param]().double().eval()


@pytest.fixture(params=WHOLE)
def whole_mixer(request):
    torch.manual_seed(0)
    return WHOLE[request.param]().double().eval()
