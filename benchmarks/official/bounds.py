"""The bounds of `explain --with bounds` beside those of auto_LiRPA, on the same feed-forwards, balls and samples.

    python benchmarks/official/bounds.py CHECKOUT_OF_AUTO_LIRPA          (needs appdirs and graphviz)

Equal, but for the 1e-9 by which ours are widened: intervals wherever the activation rises everywhere; both linear ways
through an MLP with ReLU or none; backward through three layers with ReLU, when theirs is given our intervals on the way
and both are cut to the plain ones.

Not equal, and why (results/bounds.csv has the widths, and how many samples leave either):

- tanh, sigmoid, GELU: theirs looks tangents up in a table, ours takes the best of a few slopes on a grid and adds what
  the grid may miss. Neither is always the tighter one. Intervals of GELU: theirs always reach down to its minimum.
- squared ReLU, SiLU, the tanh and sigmoid forms of GELU: to theirs they are graphs of two steps and more.
- leaky ReLU: theirs takes the lower slope by the upper one (above 0.5), ours by the room that is left in the middle.
- GLUs: theirs takes the planes at two corners, ours the means of planes that vary least.
- deeper chains: ours cuts every interval to the plain one, theirs does so only in CROWN-IBP.

nn.GELU is not among their operators; their own GELU module stands in for it. Attention and norms, which theirs can
bound, are not compared: ours bounds feed-forwards alone.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import record
from checkout import commit

from layersmith.explaining.bounding.chain import Ball, Bounded, backward, chain_of, forward, interval
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP

D, HIDDEN, BALLS, SAMPLES = 8, 32, 8, 10_000
RADII = (0.05, 0.5, 2.0)
ACTS = (
    *("identity", "relu", "leaky_relu", "relu2", "tanh", "sigmoid"),  # these rise everywhere
    *("gelu", "gelu_tanh", "quick_gelu", "silu"),
)
RISING = ACTS[:6]
#: Our ways and theirs.
WAYS = {"interval": (interval, "IBP"), "forward": (forward, "forward"), "backward": (backward, "CROWN")}
#: What theirs may miss by rounding, relative to the size of an output.
ROUNDING = 1e-8
TOLERANCE = 1e-8


@dataclass(frozen=True)
class Case:
    """One network with bounds of both sides."""

    name: str
    act: str
    ours: Any
    theirs: Any
    chain: list[Any]


def main() -> None:
    checkout = Path(sys.argv[1])
    sys.path.insert(0, str(checkout))
    warnings.filterwarnings("ignore")
    torch.set_default_dtype(torch.float64)
    import auto_LiRPA

    torch.manual_seed(0)
    centres = torch.randn(BALLS, D)
    worst, rows = 0.0, []
    for kind in (MLP, GLU):
        for act in ACTS:
            case = made(kind, act, centres)
            for radius in RADII:
                ball = Ball(centres, torch.full((BALLS,), radius))
                worst = max([worst, *(apart(*pair) for pair in equals(case, ball))])
                rows += measured(case, ball)
    deep = max(apart(*three_layers(centres, radius)) for radius in RADII)
    print(f"largest relative difference where equal: {worst:.1e}, three layers {deep:.1e}")
    source = f"github:Verified-Intelligence/auto_LiRPA@{commit(checkout)}, BoundedModule.compute_bounds"
    record.save_csv("bounds", [{**row, "auto_lirpa": auto_LiRPA.__version__} for row in rows])
    path = record.save_official(
        "bounds",
        "bounds",
        source,
        f"both ends of every output over {BALLS} balls of the 2-norm (radii {', '.join(map(str, RADII))}), float64, "
        f"relative to 1 + |end|: intervals of MLP and GLU (width {D}, hidden {HIDDEN}) with {', '.join(RISING)}; "
        "forward and backward (CROWN) of the MLP with identity and ReLU; backward through three layers with ReLU, "
        "theirs given our intervals on the way. Not equal: lines around other activations and planes around products, "
        "with widths and samples in results/bounds.csv. Not compared: attention and norms, which ours does not bound",
        max(worst, deep),
        TOLERANCE,
        f"appdirs {version('appdirs')}, graphviz {version('graphviz')}",
    )
    print(path)


def made(kind: type[MLP] | type[GLU], act: str, centres: Tensor) -> Case:
    """A feed-forward with random weights, and theirs of the same weights."""
    from auto_LiRPA import BoundedModule
    from auto_LiRPA.operators.gelu import GELU

    ours = kind(D, HIDDEN, act=act, bias=True)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_()
            parameter.mul_(parameter.shape[-1] ** -0.5 if parameter.dim() == 2 else 0.5)
    same = kind(D, HIDDEN, act=act, bias=True)
    same.load_state_dict(ours.state_dict())
    if act == "gelu":
        same.act = GELU()
    chain = chain_of(ours)
    assert chain is not None
    assert torch.allclose(same(centres), ours(centres), rtol=1e-14, atol=1e-14)
    theirs = BoundedModule(same, centres, verbose=False)
    return Case(kind.name, act, ours, theirs, chain)


def bounded(theirs: Any, ball: Ball, method: str, given: dict[str, list[Tensor]] | None = None) -> Bounded:
    """Their bounds over balls of one radius; given: intervals on the way, by the names of their nodes."""
    from auto_LiRPA import BoundedTensor, PerturbationLpNorm

    x = BoundedTensor(ball.centre, PerturbationLpNorm(norm=2, eps=float(ball.radius[0])))
    low, high = theirs.compute_bounds(x=(x,), method=method, interm_bounds=given)
    return Bounded(low.detach(), high.detach())


def equals(case: Case, ball: Ball) -> list[tuple[Bounded, Bounded]]:
    """Pairs of bounds that must be equal; none where the two sides are known to differ."""
    plain = interval(case.chain, ball)
    pairs = [(plain, bounded(case.theirs, ball, "IBP"))] if case.act in RISING else []
    if case.name == "mlp" and case.act in ("identity", "relu"):
        for function, method in (WAYS["forward"], WAYS["backward"]):
            pairs.append((function(case.chain, ball), cut(bounded(case.theirs, ball, method), plain)))
    return pairs


def three_layers(centres: Tensor, radius: float) -> tuple[Bounded, Bounded]:
    """Ours and theirs of a chain of three linear maps, theirs with our intervals before each ReLU."""
    from auto_LiRPA import BoundedModule

    first, second = MLP(D, HIDDEN, act="relu"), MLP(HIDDEN, D, act="relu")
    net = nn.Sequential(first.up, nn.ReLU(), second.up, nn.ReLU(), second.down)
    one, two = chain_of(first), chain_of(second)
    assert one is not None
    assert two is not None
    chain = [*one[:2], *two]
    ball = Ball(centres, torch.full((BALLS,), radius))
    theirs = BoundedModule(net, centres, verbose=False)
    nodes = [node.name for node in theirs.nodes() if type(node).__name__ == "BoundLinear"]
    on_the_way = [backward(chain[:1], ball), backward(chain[:3], ball)]
    given = {name: [box.low, box.high] for name, box in zip(nodes, on_the_way, strict=False)}
    return backward(chain, ball), cut(bounded(theirs, ball, "CROWN", given), interval(chain, ball))


def cut(found: Bounded, plain: Bounded) -> Bounded:
    """What ours does with every interval: its intersection with the plain one."""
    return Bounded(torch.maximum(found.low, plain.low), torch.minimum(found.high, plain.high))


def apart(ours: Bounded, theirs: Bounded) -> float:
    """The largest difference of an end, relative to 1 + |end|."""
    ends = ((ours.low, theirs.low), (ours.high, theirs.high))
    return max(float(((a - b).abs() / (1 + b.abs())).max()) for a, b in ends)


def measured(case: Case, ball: Ball) -> list[dict[str, Any]]:
    """For each way: mean widths, what samples reach, and how many of them leave the bounds of each side."""
    y = torch.stack([case.ours(points(ball, index)) for index in range(BALLS)]).detach()  # (balls, samples, D)
    reached = float((y.amax(1) - y.amin(1)).mean())
    rows = []
    for way, (function, method) in WAYS.items():
        ours, theirs = function(case.chain, ball), bounded(case.theirs, ball, method)
        rows.append(
            {
                "network": case.name,
                "activation": case.act,
                "radius": float(ball.radius[0]),
                "way": way,
                "sampled": reached,
                "ours": float(ours.width.mean()),
                "theirs": float(theirs.width.mean()),
                "samples": BALLS * SAMPLES,
                "outside_ours": outside(y, ours, 0.0),
                "outside_theirs": outside(y, theirs, ROUNDING),
            }
        )
        print({key: f"{value:.4g}" if isinstance(value, float) else value for key, value in rows[-1].items()})
    return rows


def points(ball: Ball, index: int) -> Tensor:
    """(SAMPLES, D) in one of the balls, half of them on its surface."""
    draws = torch.Generator().manual_seed(index)
    steps = torch.randn(SAMPLES, D, generator=draws)
    length = torch.rand(SAMPLES, 1, generator=draws)
    length[: SAMPLES // 2] = 1.0
    return ball.centre[index] + ball.radius[index] * length * steps / steps.norm(dim=-1, keepdim=True)


def outside(y: Tensor, bounds: Bounded, slack: float) -> int:
    """How many samples have an output outside of its bounds by more than slack, relative to 1 + |output|."""
    allowed = slack * (1 + y.abs())
    left = (y < bounds.low[:, None] - allowed) | (y > bounds.high[:, None] + allowed)
    return int(left.any(-1).sum())


if __name__ == "__main__":
    main()
