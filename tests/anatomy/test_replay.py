"""Replay: a part of the model gives what it gives in the whole, and the model is the same afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from layersmith.anatomy import Replay, find_sites, swap
from layersmith.errors import UserError
from layersmith.ffn.zero import Zero
from tests.anatomy.families import BY_NAME, FAMILIES, Family

EVERY = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)


def tensor(output: object) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


@EVERY
@torch.no_grad()
def test_every_part_equals_the_whole(family: Family) -> None:
    model, inputs = family.model(), family.inputs()
    anatomy = find_sites(model)
    replay = Replay(model, anatomy)
    assert replay.exact == family.exact, replay.why
    assert bool(replay.why) == (not family.exact)
    modules = dict(model.named_modules())
    hooks = [dict(m._forward_hooks) for m in model.modules()]
    expected = tensor(model(**inputs))
    hidden = replay.block_inputs(inputs)
    assert len(hidden) == replay.n_blocks + 1
    for start in range(replay.n_blocks + 1):
        assert torch.equal(tensor(replay.run_from(start, hidden[start], inputs)), expected), start
    for index in range(replay.n_blocks if family.exact else 0):
        assert torch.equal(replay.run_block(index, hidden[index], inputs), hidden[index + 1]), index
    assert dict(model.named_modules()) == modules
    assert [dict(m._forward_hooks) for m in model.modules()] == hooks
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", [f.name for f in FAMILIES if f.exact])
@torch.no_grad()
def test_what_is_handed_in_is_what_counts(name: str) -> None:
    """Other hidden states give another output, at every start: nothing is taken from the batch behind our back."""
    family = BY_NAME[name]
    model, inputs = family.model(), family.inputs()
    replay = Replay(model, find_sites(model))
    hidden = replay.block_inputs(inputs)
    expected = tensor(model(**inputs))
    for start in range(replay.n_blocks + 1):
        assert not torch.equal(tensor(replay.run_from(start, 1.5 * hidden[start] + 1.0, inputs)), expected), start
    for index in range(replay.n_blocks):
        assert not torch.equal(replay.run_block(index, 1.5 * hidden[index] + 1.0, inputs), hidden[index + 1])


@torch.no_grad()
def test_blocks_before_the_start_are_not_computed() -> None:
    family = BY_NAME["llama"]
    model, inputs = family.model(), family.inputs()
    anatomy = find_sites(model)
    replay = Replay(model, anatomy)
    hidden = replay.block_inputs(inputs)
    ran: list[str] = []
    for path in replay.blocks:
        mlp = model.get_submodule(f"{path}.mlp")
        mlp.register_forward_hook(lambda m, args, out, path=path: ran.append(path))
    replay.run_from(1, hidden[1], inputs)
    assert ran == [replay.blocks[1]]
    ran.clear()
    replay.run_block(0, hidden[0], inputs)
    assert ran == [replay.blocks[0]]


@pytest.mark.parametrize("name", ["llama", "bert", "opt", "torch_pre_norm", "gpt2"])
@torch.no_grad()
def test_swapped_and_dropped_blocks(name: str) -> None:
    """Modules are looked up at each call: parts of a changed model equal the changed whole."""
    family = BY_NAME[name]
    model, inputs = family.model(), family.inputs()
    anatomy = find_sites(model)
    replay = Replay(model, anatomy)
    width = anatomy.sites[0].d_model
    for site in ("layers.0", "layers.1", "layers.0.attn", "layers.1.ffn"):
        with swap(model, {site: Zero(width)}, anatomy):
            expected = tensor(model(**inputs))
            hidden = replay.block_inputs(inputs)
            for start in range(replay.n_blocks + 1):
                assert torch.equal(tensor(replay.run_from(start, hidden[start], inputs)), expected), (site, start)


@EVERY
@torch.no_grad()
def test_capture(family: Family) -> None:
    """The captured inputs and outputs of a site's modules are those of a run of the whole model."""
    model, inputs = family.model(), family.inputs()
    anatomy = find_sites(model)
    replay = Replay(model, anatomy)
    hidden = replay.block_inputs(inputs)
    index = replay.n_blocks - 1
    block = next(s for s in anatomy.of_kind("block") if s.modules[0] == replay.blocks[index])
    paths = [path for s in anatomy.in_block(block.name) for path in s.modules]
    seen: dict[str, list[Tensor]] = {path: [] for path in paths}
    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda m, args, out, path=path: seen[path].append(out if isinstance(out, Tensor) else out[0])
        )
        for path in paths
    ]
    model(**inputs)
    for handle in handles:
        handle.remove()
    output, calls = replay.capture(index, hidden[index], inputs, paths)
    assert torch.equal(output, hidden[-1])
    for path in paths:
        assert len(calls[path]) == family.calls
        assert all(torch.equal(c.hidden, s) for c, s in zip(calls[path], seen[path], strict=True)), path
        assert calls[path][0].input.is_floating_point()


def test_gradients_flow_through_a_partial_run() -> None:
    family = BY_NAME["llama"]
    model, inputs = family.model(), family.inputs()
    replay = Replay(model, find_sites(model))
    hidden = replay.block_inputs(inputs)
    start = hidden[1].detach().requires_grad_()
    replay.run_from(1, start, inputs).logits.sum().backward()
    assert start.grad is not None
    assert start.grad.abs().sum() > 0


class Broken(nn.Module):
    def forward(self, *args: object, **kwargs: object) -> None:
        raise RuntimeError("broken")


@torch.no_grad()
def test_nothing_is_left_behind_after_an_error() -> None:
    family = BY_NAME["llama"]
    model, inputs = family.model(), family.inputs()
    replay = Replay(model, find_sites(model))
    hidden = replay.block_inputs(inputs)
    expected = tensor(model(**inputs))
    model.model.layers[1].mlp, mlp = Broken(), model.model.layers[1].mlp
    modules = dict(model.named_modules())
    for run in (
        lambda: replay.block_inputs(inputs),
        lambda: replay.run_from(1, hidden[1], inputs),
        lambda: replay.run_block(1, hidden[1], inputs),
        lambda: replay.capture(1, hidden[1], inputs, ["model.layers.1.self_attn"]),
    ):
        with pytest.raises(RuntimeError, match="broken"):
            run()
        assert dict(model.named_modules()) == modules
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    model.model.layers[1].mlp = mlp
    assert torch.equal(tensor(model(**inputs)), expected)


def test_wrong_calls_are_refused() -> None:
    family = BY_NAME["llama"]
    model, inputs = family.model(), family.inputs()
    replay = Replay(model, find_sites(model))
    hidden = replay.block_inputs(inputs)
    with pytest.raises(UserError, match="no block 3"):
        replay.run_from(3, hidden[2], inputs)
    with pytest.raises(UserError, match="no block 2"):
        replay.run_block(2, hidden[2], inputs)
    with pytest.raises(UserError, match="hidden states"):
        replay.run_from(1, None, inputs)
    with pytest.raises(UserError, match="no module"):
        replay.capture(1, hidden[1], inputs, ["model.layers.1.fnn"])
