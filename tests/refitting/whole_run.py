"""A whole run on a tiny model, as several test files do it, and what must be equal between two of them."""

from layersmith.refitting.pipeline import refit
from tests.refitting.conftest import tiny_llama

METHODS = ["width", "kv_merge"]
#: Latency is measured and differs from run to run; a params budget makes whole runs comparable.
BUDGET = {"params": 0.97}


def run(out, text, tokenizer, **changes):
    options = {"budget": BUDGET, "methods": METHODS, "at": "prefill=1x32", "heal_tokens": 4096, "progress": False}
    return refit(tiny_llama(layers=2), out=out, data=text, tokenizer=tokenizer, **{**options, **changes})


def comparable(result):
    """What must be equal between two runs: everything that is not a time."""
    return {
        "chosen": result["chosen"]["candidates"],
        "unhealed": result["chosen"]["unhealed"]["divergence"],
        "healed": result["chosen"]["measured"]["divergence"],
        "params": result["chosen"]["measured"]["params"],
        "scores": {c["id"]: c["divergence"] for c in result["candidates"]},
        "curve": result["heal"]["curve"],
    }
