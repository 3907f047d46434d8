"""A model handed over in Python has to hold its weights as they are: to be read, changed and saved."""

from __future__ import annotations

from torch import Tensor, nn

from layersmith.anatomy.probe import example_inputs
from layersmith.anatomy.running import MODEL_FAILURES, evaluating
from layersmith.errors import UserError


def check_plain(model: nn.Module) -> None:
    """Raise a UserError for a model whose weights another library has packed (compressed-tensors, bitsandbytes, ...).

    Such a library says so on the model, or leaves linear maps without a weight until they are first run. The model is
    run once, on a few tokens: whatever comes into being then is no weight that a saved model would have.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        form = getattr(getattr(quantizer, "quantization_config", None), "quant_method", type(quantizer).__name__)
        raise UserError(_packed(f"are stored in a format of another library ({getattr(form, 'value', form)})"))
    bare = [path for path, m in model.named_modules() if isinstance(m, nn.Linear) and not _has_weight(m)]
    if bare:
        raise UserError(_packed(f"are not all there: {bare[0]} ({len(bare)} such modules) has none"))
    before = {*model.state_dict()}
    try:
        inputs = example_inputs(model)
        with evaluating(model):
            model(**inputs)
    except MODEL_FAILURES:  # why it does not run is said where its sites are looked for
        return
    changed = sorted(before ^ {*model.state_dict()})
    if changed:
        raise UserError(_packed(f"change while it runs: {changed[0]} ({len(changed)} such tensors) comes or goes"))


def _has_weight(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), Tensor)


def _packed(what: str) -> str:
    return (
        f"The weights of this model {what}. layersmith reads and changes weights as they are, and saves them so. Give "
        f"the original, unquantized model; or load this one unpacked (dequantize=True in its quantization config, "
        f"where its format can), save it in bfloat16, and give that folder."
    )
