"""Models in and out: the one loader, saving of edited models, and the proof that a saved model is the one measured.

Importing this package makes the Auto classes of transformers know layersmith checkpoints. A process that does not
import it loads them with `trust_remote_code=True`; the folder carries the two lines of code needed.
"""

from layersmith.checkpoint.config import LayersmithConfig
from layersmith.checkpoint.dtypes import round_to_stored, source_dtypes, stored_as, stored_dtypes
from layersmith.checkpoint.folder import check_replaceable
from layersmith.checkpoint.hf import LayersmithModel, register
from layersmith.checkpoint.loading import load
from layersmith.checkpoint.plain import check_plain
from layersmith.checkpoint.rehearsal import rehearse
from layersmith.checkpoint.saving import save, save_result
from layersmith.checkpoint.stock import export_stock
from layersmith.checkpoint.stored import stored_bytes_on_disk, stored_dtype
from layersmith.checkpoint.verify import verify_reload

register()

__all__ = [
    "LayersmithConfig",
    "LayersmithModel",
    "check_plain",
    "check_replaceable",
    "export_stock",
    "load",
    "rehearse",
    "round_to_stored",
    "save",
    "save_result",
    "source_dtypes",
    "stored_as",
    "stored_bytes_on_disk",
    "stored_dtype",
    "stored_dtypes",
    "verify_reload",
]
