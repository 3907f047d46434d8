"""A tiny model of the task `generation`, noise and classes to draw."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layersmith.model.spec import read_spec
from layersmith.model.task_model import TaskModel, build
from layersmith.racing.tasks.generation import Generation
from layersmith.racing.train import ends_of

TASK = Generation(data="drawn", sampler="plain")
CLASSES = torch.arange(6)
SPEC = {"d_model": 16, "n_layers": 3, "n_heads": 2, "ffn": {"name": "mlp", "d_hidden": 24}, "rope_theta": None}


def model(**other: Any) -> TaskModel:
    """float64, without gradients, with an output map large enough that a drawing moves."""
    torch.manual_seed(0)
    built = build(read_spec({**SPEC, **other}), ends_of(TASK)).double().eval()
    built.head.weight.data.normal_(std=0.5)
    return built.requires_grad_(False)


def noise(count: int = 6, seed: int = 5) -> Tensor:
    return torch.randn(count, 16, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
