"""Three habits that keep the code right on every device, read off the source: breaking them shows on a GPU alone.

A seeded draw names its device, because a generator belongs to one and torch's default may be another. So does
`torch.linspace`, because torch no longer places it on the default device once transformers has loaded a model. And
torch's default device is nobody's to set, but for outlines on "meta": what is made somewhere is put there.
"""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "layersmith"


#: Draws that are where their input is, and take no device.
PLACED = ("torch.multinomial",)


def careless(tree: ast.AST) -> list[int]:
    """Lines of the calls that ought to name a device and do not; `**options` counts as naming it."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            named = {keyword.arg for keyword in node.keywords}
            name = ast.unparse(node.func)
            bound = ("generator" in named and name not in PLACED) or name == "torch.linspace"
            if bound and not named & {"device", None}:
                lines.append(node.lineno)
    return lines


def test_draws_and_linspace_name_their_device() -> None:
    found = {
        f"{path.relative_to(SOURCE)}:{line}"
        for path in SOURCE.rglob("*.py")
        for line in careless(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert not found


#: Inside a `from_pretrained` of transformers, which has set the default to "meta", parts are built where they compute.
UNDOES_ANOTHER = "checkpoint/hf.py"


def defaults(tree: ast.AST) -> list[int]:
    """Lines that set torch's default device, to anything but "meta"."""
    contexts = [item.context_expr for node in ast.walk(tree) if isinstance(node, ast.With) for item in node.items]
    found = [
        c.lineno for c in contexts if ast.unparse(c).startswith("torch.device(") and "'meta'" not in ast.unparse(c)
    ]
    named = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "set_default_device"]
    return found + [node.lineno for node in named]


def test_no_default_device_is_set() -> None:
    found = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if defaults(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == {UNDOES_ANOTHER}


def test_it_would_find_them() -> None:
    assert defaults(ast.parse("with torch.device(x.device):\n    pass\ntorch.set_default_device('cuda')")) == [1, 3]
    assert not defaults(ast.parse("with torch.device('meta'):\n    pass"))
    assert careless(ast.parse("torch.randn(3, generator=draw)\ntorch.linspace(0, 1, 5)")) == [1, 2]
    assert not careless(ast.parse("torch.randn(3, generator=draw, device='cpu')\ntorch.randn(3, **draw)"))
