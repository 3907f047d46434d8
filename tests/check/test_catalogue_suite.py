"""Every part of the catalogue passes every check that applies; one test per pair, so that a report names both."""

from __future__ import annotations

from typing import Any

import pytest

from layersmith import catalogue
from layersmith.check import applicable, check, checks_for


def _asked(name: str) -> list[str]:
    """The checks of a part. One that cannot be built fails each of them by name, and no other part's tests are lost."""
    try:
        return applicable(name)
    except Exception:  # whatever a part raises when it is built: its checks say so
        return list(checks_for(name))


@pytest.mark.parametrize(("check_name", "name"), [(c, n) for n in catalogue.ENTRIES for c in _asked(n)])
def test_contract(name: str, check_name: str) -> None:
    (result,) = check(name, only=(check_name,))
    assert result.skipped_reason is None
    assert result.passed, result.detail


#: Settings that take another path through a part than its example does.
OTHER_SETTINGS = [
    ("glu", {"d_model": 16, "d_hidden": 24, "act": "gelu_tanh", "bias": True}),
    ("topk_glu", {"d_model": 16, "d_hidden": 24, "k": 4, "gather_tokens": 0}),
    ("split_ffn", {"d_model": 16, "d_expert": 4, "n_experts": 4, "k": 2, "gate": "keys", "bias": True}),
    ("split_ffn", {"d_model": 16, "d_expert": 4, "n_experts": 4, "k": 2, "gate": "mlp", "gated": False, "act": "relu"}),
    ("split_ffn", {"d_model": 16, "d_expert": 4, "n_experts": 4, "k": 2, "n_shared": 1, "gate": "oracle"}),
    ("split_ffn", {"d_model": 16, "d_expert": 4, "n_experts": 4, "k": 2, "weigh": True, "balance_weight": 0.1}),
    ("averaged_copies", {"d_model": 16, "d_hidden": 24, "n_experts": 2, "gated": True, "act": "silu"}),
    ("structured", {"d_model": 16, "d_hidden": 32, "structure": "low_rank", "rank": 4, "gated": True}),
    ("structured", {"d_model": 16, "d_hidden": 32, "structure": "block_shuffle", "blocks": 4}),
    # "gated" is not among these: its gate learns from a loss of its own (tests/explaining/test_dictionary_losses.py).
    ("sparse_dictionary", {"d_model": 16, "d_features": 256, "k": 4, "skip": True, "centred": True}),
    ("sparse_dictionary", {"d_model": 16, "d_features": 48, "k": 4, "activation": "batch_topk"}),
    ("sparse_dictionary", {"d_model": 16, "d_features": 48, "k": 4, "activation": "jumprelu", "bandwidth": 2.0}),
    ("sparse_dictionary", {"d_model": 16, "d_features": 48, "k": 4, "activation": "relu"}),
    ("quantized", {"d_in": 32, "d_out": 16, "bits": 8, "group_size": 8}),
    ("rms_norm", {"d_model": 16, "offset": True, "bias": True}),
    ("structured", {"d_model": 16, "d_hidden": 32, "structure": "variational"}),
    ("prep_bn", {"d_model": 16}),
    ("fixed_norm", {"d_model": 16, "centre": False, "bias": False}),
    ("lama", {"d_model": 8, "n_heads": 2, "causal": False, "context": "mean", "bias": True}),
    ("crms_norm", {"d_model": 15, "bias": True}),
    ("softmax_attention", {"d_model": 16, "n_heads": 2}),
    ("softmax_attention", {"d_model": 16, "n_heads": 4, "n_kv_heads": 1, "window": 9, "rope_theta": 100.0}),
    ("softmax_attention", {"d_model": 16, "n_heads": 2, "causal": False, "rope_theta": 100.0}),
    ("softmax_attention", {"d_model": 16, "n_heads": 2, "log_length": True}),
    ("softmax_attention", {"d_model": 16, "n_heads": 2, "log_length": True, "window": 9}),
    ("linear_attention", {"d_model": 16, "n_heads": 2, "feature_map": "elu1"}),
    ("linear_attention", {"d_model": 16, "n_heads": 2, "feature_map": "identity", "normalize": False}),
    ("linear_attention", {"d_model": 16, "n_heads": 2, "feature_map": "relu", "causal": False}),
    ("pattern_attention", {"d_model": 16, "n_heads": 2, "pattern": "shifted", "size": 12, "relative_bias": True}),
    ("pattern_attention", {"d_model": 16, "n_heads": 2, "pattern": "strided", "size": 4, "rope_theta": 100.0}),
    ("pattern_attention", {"d_model": 16, "n_heads": 2, "pattern": "fixed", "size": 12, "causal": False}),
    ("deltanet", {"d_model": 16, "n_heads": 2, "head_dim": 4, "conv": 1, "chunk": 16}),
    ("gated_deltanet", {"d_model": 16, "n_heads": 2, "conv": None, "rope_theta": 100.0, "qk_norm": True}),
    ("galerkin", {"d_model": 16, "n_heads": 2, "causal": True, "kind": "fourier"}),
    ("gmlp", {"d_model": 8, "d_hidden": 8, "length": 1000, "toeplitz": True}),
    ("mlp_mixer", {"d_model": 8, "token_hidden": 64, "length": 1000, "causal": False}),
    ("tensor_attention", {"d_model": 8, "n_heads": 2, "window": 5, "chunk": 8}),
    ("tensor_attention", {"d_model": 8, "n_heads": 2, "degree": 2, "causal": False}),
    ("shift_compare", {"d_model": 8, "context": False}),
    ("multigrid", {"d_model": 8, "grid": [32, 32], "smooth": 2, "periodic": True}),
]


@pytest.mark.parametrize(("name", "config"), OTHER_SETTINGS, ids=str)
def test_contract_of_other_settings(name: str, config: dict[str, Any]) -> None:
    assert [f"{r.check}: {r.detail}" for r in check(name, config) if not r.passed] == []
