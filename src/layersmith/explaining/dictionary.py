"""The tool `dictionary`: a wide, sparse layer in the sublayer's place, whose features can be read one by one.

Papers: arXiv 2406.11944 (transcoders), 2406.17759 (autoencoders of attention outputs), 2501.18838 (a top-k transcoder
in the sublayer's place), 2501.16615 (features that another seed does not find: `dictionaries.agreement`). What is not
there: simulated activations put in place of the features', and shares of source tokens. Features are put into words by
`wording`, where a writer is named.

A transcoder stands in place of the sublayer. An autoencoder of its outputs cannot: the sublayer itself runs, and what
it gives goes through the dictionary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.errors import UserError
from layersmith.explaining.dictionaries.pages import activity, feature_pages
from layersmith.explaining.dictionaries.recipe import Recipe
from layersmith.explaining.dictionaries.train import shuffled, train
from layersmith.explaining.tool import Explanation, Observed, Settings, Tool
from layersmith.ffn.sparse_dictionary import SparseDictionary

#: Features of which the report has a page.
PAGES = 50
#: Rows that the sublayer is run on at once.
ROWS = 1024


class Dictionary(Tool):
    name = "dictionary"
    summary = "A sparse dictionary of features: a transcoder, a skip transcoder or a sparse autoencoder."
    kinds = ("ffn", "mixer", "block")
    papers = ("2406.11944", "2406.17759", "2501.18838", "2501.16615")
    settings = asdict(Recipe())

    def explain(self, observed: Observed, settings: Settings, tell: Callable[[float], None]) -> Explanation:
        """Train on the rows of the site. UserError for settings that are wrong, and for too little text."""
        recipe = Recipe.of({**self.settings, **settings})
        inputs, outputs = rows_for(recipe, observed)
        dictionary = train(shuffled(inputs, outputs, recipe.batch, recipe.seed), recipe, tell=tell)
        seen = activity(dictionary, inputs, outputs)
        size = {"features": float(len(dictionary.decoder)), "active": seen.active}
        pages = feature_pages(dictionary, inputs, observed.ids, seen, PAGES)
        module = Reconstructed(observed.module, dictionary) if recipe.kind == "sae" else dictionary

        def codes(x: Tensor) -> Tensor:
            read = outputs_again(replace(observed, inputs=x)) if recipe.kind == "sae" else x
            return dictionary.codes(dictionary.read(read))

        return Explanation(module, size, {"recipe": asdict(recipe), **pages}, codes=codes)


def rows_for(recipe: Recipe, observed: Observed) -> tuple[Tensor, Tensor]:
    """What the dictionary reads and is to write, (N, D) each; UserError if it cannot be trained on that."""
    inputs = outputs_again(observed) if recipe.kind == "sae" else observed.inputs
    if inputs.shape[-1] != observed.outputs.shape[-1]:
        raise UserError(
            f"The site reads {inputs.shape[-1]} channels and writes {observed.outputs.shape[-1]}; a transcoder stands "
            f'where both are equal. Take kind="sae", which reads what the site writes.'
        )
    recipe.check_rows(len(inputs), inputs.shape[-1])
    return inputs, observed.outputs


@torch.no_grad()
def outputs_again(observed: Observed) -> Tensor:
    """What the sublayer gives for the inputs: what an autoencoder behind it reads there.

    Not `observed.outputs`, which the control puts in a random order: read and written in one order they would be
    learnt as well as before. UserError where the sublayer cannot be run on single tokens.
    """
    try:
        found = [observed.module(rows) for rows in observed.inputs.split(ROWS)]
    except Exception as error:  # a module of any model: it may raise anything
        raise UserError(
            f"An autoencoder stands behind the sublayer, and this one does not work token by token "
            f"({type(error).__name__}), so it cannot be judged here. Train one on its outputs in Python "
            f"(layersmith.explaining.dictionaries), or take a transcoder."
        ) from error
    return torch.cat([rows[0] if isinstance(rows, tuple) else rows for rows in found])


class Reconstructed(nn.Module):
    """The sublayer, and a dictionary that its output goes through. Called like the sublayer; tuples stay tuples.

    The sublayer is held as it is, not copied, and is none of this module's own: it is the model's.
    """

    def __init__(self, original: nn.Module, dictionary: SparseDictionary):
        super().__init__()
        self._original = (original,)
        self.dictionary = dictionary

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        outputs = self._original[0](*args, **kwargs)
        if isinstance(outputs, tuple):
            return (self.dictionary(outputs[0]), *outputs[1:])
        return self.dictionary(outputs)
