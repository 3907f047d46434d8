"""Scores on the tasks of lm-evaluation-harness (`lm_eval`, the extra `tasks`), by that harness itself.

    layersmith measure MODEL --against ORIGINAL --tasks arc_easy,hellaswag --task-limit 200

A task is known to the harness by name, or is the path of a task file (.yaml). Its data set is fetched by the harness.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from layersmith.errors import UserError
from layersmith.names import check_tasks

#: Sequences that the harness reads at once.
BATCH = 8


def scores(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, tasks: list[str], limit: int | None = None
) -> dict[str, dict[str, float]]:
    """{task: {measure: value}} as the harness reports them ("acc", "acc_stderr", "word_perplexity", ...).

    limit  examples of each task; None takes all
    Raises UserError for a task that the harness does not know or whose data it cannot get.
    """
    check_tasks(tasks)
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    try:
        subject = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH)
        found: dict[str, Any] = lm_eval.simple_evaluate(subject, tasks=tasks, limit=limit, log_samples=False)
    except Exception as error:  # whatever the harness, or the library of its data sets, raises about a task
        said = " ".join(str(error).split())[:300]
        raise UserError(f"lm-evaluation-harness could not score {', '.join(tasks)}: {said}") from error
    return {task: _numbers(values) for task, values in found["results"].items()}


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """The measures of a task without the name of the filter ("acc,none" -> "acc") and without what is no number."""
    return {key.partition(",")[0]: float(value) for key, value in values.items() if _is_measure(key, value)}


def _is_measure(key: str, value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and "," in key
