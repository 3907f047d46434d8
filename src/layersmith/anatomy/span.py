"""The sublayer at a site as one callable module, whether the model keeps it in one module or in several."""

from __future__ import annotations

from typing import Any

from torch import nn

from layersmith.anatomy.site import Site
from layersmith.errors import UserError


class Span(nn.Module):
    """Modules that run one after the other, called and returning like the first of them.

    BERT's attention, say: `attention.self` returns (y, weights), `attention.output.dense` projects y; the span takes
    the arguments of the first and returns (projected y, weights).
    """

    def __init__(self, modules: list[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        first, *rest = self.parts
        result = first(*args, **kwargs)
        is_tuple = isinstance(result, tuple | list)
        y = result[0] if is_tuple else result
        for part in rest:
            y = part(y)
        return (y, *result[1:]) if is_tuple else y


def original(model: nn.Module, site: Site) -> nn.Module:
    """What stands at the site now: the module itself, or a `Span` over several. It is the model's own, not a copy.

    Raises UserError when the model has no such modules.
    """
    try:
        return chain_of([model.get_submodule(path) for path in site.modules])
    except AttributeError as error:
        raise UserError(
            f"The model has no modules {', '.join(site.modules)} for the site {site.name!r}; the anatomy was made for "
            f"another model, or the block around it was replaced."
        ) from error


def chain_of(modules: list[nn.Module]) -> nn.Module:
    """One module for a chain of them."""
    return modules[0] if len(modules) == 1 else Span(modules)
