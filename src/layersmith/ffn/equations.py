"""A few written equations between two projections: what symbolic regression makes of a feed-forward.

    z = P x + p,     y = W [f_1(z), ..., f_n(z)] + w

Shapes: x (..., D) -> z (..., inputs) -> one value an equation -> y (..., D). The equations are expression trees
(`shared/expressions.py`); their numbers are parameters, so an equation can be trained on like any other part.

Cheap where few directions matter: 2 D (inputs + n) FLOPs in matrices and a few for each node of the equations. It sees
nothing of x outside the rows of P, and writes nothing outside the columns of W.

Paper: "SymTorch: Symbolic Distillation of Neural Networks" (equations between principal directions in a language
model's feed-forwards).
Differs from the paper: its equations come from PySR, ours from the tool `formula`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.shared.expressions import compiled, run


class Equations(FeedForward):
    """Equations between two affine maps.

    d_model    width of what is read and of what is written
    inputs     variables that the equations have
    equations  expression trees, each gives one value: ["add", ["square", "x0"], 1.5]

    Worked example. y_1 = x_1 x_2 and nothing else:

    >>> import torch
    >>> part = Equations(2, 2, [["mul", "x0", "x1"]])
    >>> weights = {"read.weight": torch.eye(2), "read.bias": torch.zeros(2), "constants": torch.zeros(0)}
    >>> weights |= {"write.weight": torch.tensor([[1.0], [0.0]]), "write.bias": torch.zeros(2)}
    >>> _ = part.load_state_dict(weights)
    >>> part(torch.tensor([[2.0, 3.0], [-1.0, 4.0]])).tolist()
    [[6.0, 0.0], [-4.0, 0.0]]
    """

    name = "equations"

    def __init__(self, d_model: int, inputs: int, equations: list[Any]):
        super().__init__()
        require_positive(Equations, d_model=d_model, inputs=inputs)
        if not isinstance(equations, list) or not equations:
            raise ValueError(f"Equations: equations must be a list of at least one tree, not {equations!r}.")
        try:
            self.programs, constants = compiled(equations, inputs)
        except ValueError as error:
            raise ValueError(f"Equations: equations and inputs do not fit: {error}.") from error
        self.read = nn.Linear(d_model, inputs)
        self.write = nn.Linear(len(equations), d_model)
        self.constants = nn.Parameter(torch.tensor(constants))

    def forward(self, x: Tensor) -> Tensor:
        z = self.read(x).unbind(-1)
        return self.write(torch.stack([run(program, z, self.constants) for program in self.programs], -1))
