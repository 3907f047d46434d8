"""One self-contained HTML page from a result file, so that what a verb did can be judged by looking at it.

`write(result, "report.html")` draws what `result.json` says and measures nothing. The page loads nothing: styles,
charts (SVG made here) and a little script are inside the file, and its content policy forbids any request.

How the result is read: a site carries the cost of the original sublayer and a candidate the cost of all its sites with
it in place; `baseline`, `predicted` and `measured` carry the cost of the whole model. `divergence` is that from the
original in nats per token, or, where `divergence_kind` says so, the relative squared error of the hidden states.
`chosen.measured` is the final model. Anything missing is drawn as "–", never guessed.
"""

from layersmith.report.page import render, write
from layersmith.report.pareto import write_svg

__all__ = ["render", "write", "write_svg"]
