"""The translators of a tuned lens, fitted one block at a time to streams kept on disk.

Each starts as the ridge regression of the last stream on the block's own, and is trained on the divergence of what the
head then reads from the model's answer (arXiv 2303.08112, with few steps of Adam; the paper trains from zero).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.explaining.floors import ridge
from layersmith.explaining.readout import Batch, Readout
from layersmith.explaining.survey import Subject
from layersmith.measuring.divergence import is_distribution, main_output, real_positions, real_rows, token_kl

#: Learning rate.
RATE = 3e-4


def record(subject: Subject, head: Readout) -> int:
    """Store the streams of the fit batches, one file a block and batch; returns how many batches there are."""
    for index, batch in enumerate(subject.fit):
        if not subject.workspace.has_tensors(_stream(len(head.blocks) - 1, index)):
            for layer, hidden in enumerate(head.streams(batch)):
                subject.workspace.save_tensors(_stream(layer, index), {"hidden": hidden.float()})
        subject.tell("recording the streams", index + 1, len(subject.fit))
    return len(subject.fit)


def translator(subject: Subject, head: Readout, layer: int, count: int, steps: int) -> nn.Linear:
    """The translator of one block: h + linear(h) is to be read like the last stream."""
    name = f"translators/{layer:04d}"
    saved = subject.workspace.load_tensors(name)
    if saved is None:
        streams = [_load(subject, head, layer, index) for index in range(count)]
        last = [_load(subject, head, len(head.blocks) - 1, index) for index in range(count)]
        saved = _fitted(subject, head, streams, last, steps)
        subject.workspace.save_tensors(name, saved)
    linear = nn.Linear(len(saved["bias"]), len(saved["bias"])).to(subject.device)
    linear.load_state_dict(saved)
    subject.tell("tuning the lens", layer + 1, len(head.blocks))
    return linear.requires_grad_(False)


def _fitted(
    subject: Subject, head: Readout, streams: list[Tensor], last: list[Tensor], steps: int
) -> dict[str, Tensor]:
    """Ridge regression, then `steps` of Adam on one row of text each; the best on the last batch, which is held out."""
    masks = [_mask_of(batch, hidden) for batch, hidden in zip(subject.fit, last, strict=True)]
    x = torch.cat([real_rows(h, m) for h, m in zip(streams, masks, strict=True)]).double()
    y = torch.cat([real_rows(h, m) for h, m in zip(last, masks, strict=True)]).double()
    weight, bias = ridge(x, y - x)
    linear = nn.Linear(x.shape[1], x.shape[1]).to(x.device)
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    held = len(streams) - 1
    if held < 1 or not is_distribution(head.read(last[held], subject.fit[held])):
        return _state(linear)

    def moved() -> float:
        return float(_loss(head, linear, streams[held], last[held], subject.fit[held]))

    best, state = moved(), _state(linear)
    optimiser = torch.optim.Adam(linear.parameters(), lr=RATE)
    for step in range(steps):
        index = step % held
        row = (step // held) % len(streams[index])
        batch = {key: tensor[row : row + 1] for key, tensor in subject.fit[index].items()}
        with torch.enable_grad():
            loss = _loss(head, linear, streams[index][row : row + 1], last[index][row : row + 1], batch)
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()
        if (step + 1) % 8 == 0 or step + 1 == steps:
            found = moved()
            if found < best:
                best, state = found, _state(linear)
    return state


def _loss(head: Readout, linear: nn.Linear, stream: Tensor, last: Tensor, batch: Batch) -> Tensor:
    """Mean KL of what the tuned lens reads from what the model answers."""
    teacher = main_output(head.read(last, batch)).detach()
    student = main_output(head.read(stream + linear(stream), batch))
    mask = real_positions(batch)
    return token_kl(real_rows(teacher, mask), real_rows(student, mask)).mean()


def _mask_of(batch: Batch, hidden: Tensor) -> Tensor | None:
    mask = real_positions(batch)
    return mask if mask is not None and mask.shape == hidden.shape[:2] else None


def _state(linear: nn.Linear) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in linear.state_dict().items()}


def _load(subject: Subject, head: Readout, layer: int, index: int) -> Tensor:
    stored = subject.workspace.load_tensors(_stream(layer, index))
    if stored is None:  # removed or damaged: made again
        return head.streams(subject.fit[index])[layer].float()
    return stored["hidden"].to(subject.device)


def _stream(layer: int, index: int) -> str:
    return f"streams/{layer:04d}-{index:04d}"


def forget(subject: Subject, head: Readout, count: int) -> None:
    """Remove the stored streams."""
    for layer in range(len(head.blocks)):
        for index in range(count):
            subject.workspace.remove(_stream(layer, index))
