"""pocket, the trained language model that comes with layersmith: `path()` is a folder `from_pretrained` reads.

How it was made and how good it is stands in this folder's README.md; `scripts/train_pocket.py` makes it again.
"""

from pathlib import Path


def path() -> Path:
    """The folder with pocket's weights (fp16 safetensors), configuration and tokenizer."""
    return Path(__file__).parent
