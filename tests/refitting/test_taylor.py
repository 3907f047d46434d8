"""Taylor scores: what the output entropy changes by, and nothing at all where there is no hidden channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from layersmith.anatomy import find_sites
from layersmith.refitting.calibrate.taylor import stored_scores, taylor_scores
from layersmith.runs.workspace import Workspace
from tests.architectures.every import EVERY

IDS = torch.randint(5, 96, (2, 8), generator=torch.Generator().manual_seed(0))


def frozen(name: str) -> Any:
    return EVERY[name].model().requires_grad_(False)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "gpt_oss", "mamba", "mamba2", "rwkv", "segformer"])
def test_a_model_without_a_known_feed_forward_has_no_scores(name: str, tmp_path: Path) -> None:
    """'element 0 of tensors does not require grad': there was nothing to ask a gradient of."""
    model = frozen(name)
    workspace = Workspace(tmp_path / "run", {})
    try:
        assert taylor_scores(model, find_sites(model), [{"input_ids": IDS}], workspace) == {}
        assert stored_scores(workspace) == {}
    finally:
        workspace.close()


@pytest.mark.parametrize("name", ["llama", "llama4", "llama_tuples"])
def test_scores_are_the_slope_of_the_entropy(name: str, tmp_path: Path) -> None:
    """To first order, scaling a hidden channel by 1 + a changes the entropy, per token, by a times its score."""
    model = frozen(name)
    anatomy = find_sites(model)
    workspace = Workspace(tmp_path / "run", {})
    try:
        scores = taylor_scores(model, anatomy, [{"input_ids": IDS}], workspace)
    finally:
        workspace.close()
    assert scores
    site = next(iter(scores))
    channel = int(scores[site]["taylor"].abs().argmax())
    path = anatomy.site(site).modules[0]
    down = next(m for n, m in model.get_submodule(path).named_modules() if "down" in n)

    def entropy(a: float) -> Tensor:
        def scale(module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
            factor = torch.ones(args[0].shape[-1], dtype=torch.float64)
            factor[channel] += a
            return (args[0] * factor,)

        hook = down.register_forward_pre_hook(scale)
        log_p = model.double()(input_ids=IDS, use_cache=False, return_dict=True).logits.log_softmax(-1)
        hook.remove()
        return -(log_p.exp() * log_p).sum() / IDS.numel()

    if name == "llama_tuples":
        model.config.return_dict = True
    with torch.no_grad():
        slope = (entropy(1e-2) - entropy(-1e-2)) / 2e-2
    assert float(scores[site]["taylor"][channel]) == pytest.approx(float(slope), rel=2e-2, abs=1e-6)
    signed, size = scores[site]["taylor"], scores[site]["taylor_size"]
    assert (size >= signed.abs()).all()
    assert (size > 1.5 * signed.abs()).any(), "what a channel does at different tokens cancels in one of them alone"


def test_padding_counts_in_no_score(tmp_path: Path) -> None:
    model = frozen("llama")
    anatomy = find_sites(model)
    padded = torch.cat((IDS, torch.zeros(2, 5, dtype=torch.long)), 1)
    mask = torch.cat((torch.ones_like(IDS), torch.zeros(2, 5, dtype=torch.long)), 1)
    found = []
    for name, batch in (("plain", {"input_ids": IDS}), ("padded", {"input_ids": padded, "attention_mask": mask})):
        workspace = Workspace(tmp_path / name, {})
        try:
            found.append(taylor_scores(model, anatomy, [batch], workspace))
        finally:
            workspace.close()
    for site, scores in found[0].items():
        for kind, score in scores.items():
            torch.testing.assert_close(found[1][site][kind], score, rtol=1e-4, atol=1e-8)
