"""The reference transformer: any operators of the catalogue, stacked; loads and generates like any model on the Hub.

Importing this package registers the model type with transformers' Auto classes.
"""

from layersmith.model.config import TransformerConfig
from layersmith.model.transformer import TransformerLM

__all__ = ["TransformerConfig", "TransformerLM"]
