"""Streaming: fed whole, in chunks or token by token, a mixer gives the same outputs; its state is as declared."""

from __future__ import annotations

import torch

from layersmith.check.subject import Failed, Subject, outputs, require_close, with_state
from layersmith.contract import State

TOKENS = 130
SPLITS = ((64, 66), (1, 129), (37, 56, 37))
EXACT = 1e-6


def chunked(subject: Subject) -> str:
    """Fed in chunks with the state, the outputs are those of the whole sequence."""
    module = subject.build(torch.float64)
    x = subject.input(2, TOKENS, dtype=torch.float64)
    with torch.no_grad():
        whole = outputs(module, x)
        worst = 0.0
        for split in SPLITS:
            state, parts = None, []
            for chunk in x.split(split, dim=1):
                y, state = with_state(module, chunk, state)
                parts.append(y)
            worst = max(worst, require_close(torch.cat(parts, dim=1), whole, EXACT, f"chunks {split} against whole"))
    return f"{len(SPLITS)} ways to cut {TOKENS} tokens, relative error {worst:.0e}"


def step_by_step(subject: Subject) -> str:
    """Fed one token at a time, the outputs are those of the whole sequence: the recurrent form is the parallel one."""
    module = subject.build(torch.float64)
    x = subject.input(2, 70, dtype=torch.float64)
    with torch.no_grad():
        whole = outputs(module, x)
        state, parts = None, []
        for token in x.split(1, dim=1):
            y, state = with_state(module, token, state)
            parts.append(y)
    worst = require_close(torch.cat(parts, dim=1), whole, EXACT, "70 single steps against the whole")
    return f"70 steps, relative error {worst:.0e}"


def padded_decode(subject: Subject) -> str:
    """After a left-padded prompt, decoding goes on as after the prompt alone: the state remembers the mask."""
    module = subject.build(torch.float64)
    x = subject.input(2, 24, dtype=torch.float64)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[1, :7] = False
    with torch.no_grad():
        _, state = with_state(module, x[:, :20], mask=mask)
        padded, _ = with_state(module, x[:, 20:], state)
        _, state = with_state(module, x[1:, 7:20])
        alone, _ = with_state(module, x[1:, 20:], state)
    worst = require_close(padded[1:], alone, 1e-4, "decoding after a left-padded prompt against the prompt alone")
    return f"relative error {worst:.0e}"


def state_rows(subject: Subject) -> str:
    """The state is a dict of tensors with the batch first: sequences can be reordered and repeated from outside."""
    module = subject.build(torch.float64)
    x = subject.input(3, 12, dtype=torch.float64)
    order = torch.tensor([2, 0, 0])
    with torch.no_grad():
        _, state = with_state(module, x[:, :11])
        _require_state(state, batch=3)
        assert state is not None  # _require_state raised otherwise; for the type checker
        picked = {k: v[order] for k, v in state.items()}
        y, _ = with_state(module, x[order, 11:], picked)
    require_close(y, outputs(module, x)[order, 11:], EXACT, "after the sequences of the state were reordered")
    return f"{len(state)} tensors: {', '.join(sorted(state))}"


def state_bytes(subject: Subject) -> str:
    """`state_bytes(tokens, batch)` is the size of the state that `tokens` tokens really leave behind."""
    module = subject.build()
    for batch, tokens in ((1, 1), (2, 65)):
        with torch.no_grad():
            _, state = with_state(module, subject.input(batch, tokens))
        held = sum(t.numel() * t.element_size() for t in (state or {}).values())
        said = module.state_bytes(tokens, batch)  # type: ignore[operator]
        if said != held:
            raise Failed(f"state_bytes(tokens={tokens}, batch={batch}) says {said}, the state holds {held} bytes")
    return f"{held} bytes after 65 tokens, batch 2"


def refuses_state(subject: Subject) -> str:
    """A mixer that cannot stream returns no state and refuses one with a ValueError; non-causal ones cannot stream."""
    module = subject.build()
    if module.streams:
        module = subject.build(causal=False)
        if module.causal or module.streams:
            raise Failed("built with causal=False it still declares causal or streams")
    elif module.causal is False and module.streams:
        raise Failed("declares causal=False and streams=True; a later token cannot be streamed in")
    x = subject.input(1, 4)
    with torch.no_grad():
        _, state = with_state(module, x)
        if state is not None:
            raise Failed("declares streams=False and returns a state")
        try:
            with_state(module, x, {"seen": torch.zeros(1, 1)})
        except ValueError as refused:
            return f"refused: {str(refused).splitlines()[0]}"
    raise Failed("accepted a state although it declares streams=False: raise a ValueError")


def _require_state(state: State | None, batch: int) -> None:
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise Failed("the state is not a dict of tensors")
    wrong = [k for k, v in state.items() if v.dim() == 0 or v.shape[0] != batch]
    if wrong:
        raise Failed(f"state tensors without the batch as dimension 0: {', '.join(wrong)}")
