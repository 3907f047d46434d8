"""What something costs: one type for a part, a site and a whole model, in every room and every result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: What a budget bounds: its name -> the key of that figure in a result (`Cost.to_json`).
FIELDS = {"latency": "latency_ms", "params": "params", "bytes": "bytes", "flops": "flops", "kv": "kv_bytes"}


@dataclass(frozen=True)
class Cost:
    """What one step of a part, a site or a whole model costs at a stated (batch, tokens).

    params         parameters stored (buffers that hold weights, e.g. packed integers, count as what they encode)
    active_params  parameters read for one token; all of them where modules are counted that do not say
    flops          2 per multiply-add of matrix products, convolutions and attention; element-wise work is not counted
    state_bytes    bytes kept to continue decoding after `tokens` tokens: keys and values, or a mixer's state
    weight_bytes   bytes of parameters and buffers; of a model's, in the dtypes they are saved in
    latency_ms     milliseconds of one step; None where nothing was timed
    """

    params: int
    active_params: int
    flops: int
    state_bytes: int = 0
    weight_bytes: int = 0
    latency_ms: float | None = field(default=None, repr=False)

    def __add__(self, other: Cost) -> Cost:
        return self._with(other, 1)

    def __sub__(self, other: Cost) -> Cost:
        """What is left of a whole without this part of it (which may be below zero where parts were timed alone)."""
        return self._with(other, -1)

    def of(self, budget: str) -> float:
        """The figure that a budget of this name bounds; 0 for a latency that was not timed."""
        return self.to_json()[FIELDS[budget]] or 0.0

    def share(self, budget: str, original: Cost) -> float:
        """That figure as a share of the original's; 0 of 0 is 0, within any budget."""
        return self.of(budget) / max(original.of(budget), 1e-30)

    def to_json(self) -> dict[str, Any]:
        """The five figures that budgets bound, under the keys they have in every result."""
        return {
            "latency_ms": self.latency_ms,
            "params": self.params,
            "bytes": self.weight_bytes,
            "flops": self.flops,
            "kv_bytes": self.state_bytes,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Cost:
        """The cost that `to_json` wrote, whatever else is in `data`."""
        params, flops = data["params"], data["flops"]
        return Cost(params, params, flops, data["kv_bytes"], data["bytes"], data["latency_ms"])

    def _with(self, other: Cost, sign: int) -> Cost:
        pairs = [(name, mine, getattr(other, name)) for name, mine in vars(self).items()]
        summed: dict[str, Any] = {n: None if None in (a, b) else a + sign * b for n, a, b in pairs}
        return Cost(**summed)


#: The sum of no parts.
NOTHING = Cost(params=0, active_params=0, flops=0, latency_ms=0.0)
