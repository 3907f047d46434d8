"""The stage of a run that puts features into words: the passages are kept first, then every answer as it comes.

So an interruption loses one answer at most, and neither a fit nor an answer is asked for again.
"""

from __future__ import annotations

from typing import Any

from layersmith.anatomy import Site
from layersmith.errors import UserError
from layersmith.explaining.context import RunContext
from layersmith.explaining.tool import Explanation, Observed
from layersmith.explaining.wording.address import sent_to
from layersmith.explaining.wording.passages import held_out, passages_of
from layersmith.explaining.wording.shown import with_sentences
from layersmith.explaining.wording.words import Asked, answers_needed, in_words


def check_text(ctx: RunContext) -> None:
    """UserError where features are to be put into words and the model reads no text."""
    if ctx.writer is not None and (ctx.tokenizer is None or "input_ids" not in ctx.texts.fit[0]):
        raise UserError(
            "Features are put into words from passages of text, and this model comes without a tokenizer or reads "
            "something else. Leave out --words-by."
        )


def lacks_passages(ctx: RunContext, site: Site) -> bool:
    """Whether words are asked for and the site was explained before they were."""
    return ctx.writer is not None and ctx.workspace.load_json(f"passages/{site.name}") is None


def keep_passages(ctx: RunContext, site: Site, observed: Observed, explanation: Explanation) -> None:
    """Keep the passages of every feature that has a page; nothing where no words are asked for."""
    if ctx.writer is None:
        return
    held = held_out(ctx.model, site, ctx.texts.judge, ctx.bar.tell)
    assert explanation.codes is not None  # the tool that options.check asks for
    assert observed.ids is not None  # held_out
    features = [page["feature"] for page in explanation.pages["features"]]
    fit = {"inputs": observed.inputs, "ids": observed.ids}
    found = passages_of(explanation.codes, features, fit, held, ctx.config.seed)
    ctx.workspace.save_json(f"passages/{site.name}", found)


def with_words_of(ctx: RunContext, site: Site, row: dict[str, Any]) -> dict[str, Any]:
    """The site's row with its first features in words; as it is where no words are asked for."""
    if ctx.writer is None:
        return row
    tokenizer = ctx.tokenizer
    found = ctx.workspace.load_json(f"passages/{site.name}") or {}
    features = [page["feature"] for page in row["pages"]["features"][: ctx.config.words]]
    total, text = answers_needed(found, features), f"words for {site.name}"
    ask = Asked(ctx.writer, ctx.workspace, lambda done: ctx.bar.tell(text, done, total))
    with ctx.clock.stage("words"):
        words = in_words(found, features, ctx.writer.name, ask, lambda ids: [tokenizer.decode([each]) for each in ids])
        ctx.bar.tell(text, total, total)
    return {**row, "pages": with_sentences(row["pages"], words, ctx.writer)}


def told_of_words(ctx: RunContext) -> dict[str, Any]:
    """For the result: who put features into words, and where the user's text went for it."""
    if ctx.writer is None:
        return {}
    address = ctx.writer.address
    return {
        "words": {
            "by": ctx.writer.name,
            "address": address,
            "features": ctx.config.words,
            "sent": None if address is None else sent_to(address),
        }
    }
