"""The script `verify_reload` runs in a process of its own: load folders, run them, write what comes out.

It loads as a user's process would that was only handed the folder, and runs no Python code that lies in it: of a
layersmith checkpoint, the installed package is the code.

    python reload.py JOB.json

    JOB  {"folders": [...], "inputs": file, "outputs": [file, ...], "device": "cpu", "threads": 1, "dtype": "float32",
          "trust_parts": false}
    Each output file has "output" and, as "buffer.NAME", every buffer of the model. A folder that fails leaves a file of
    that name with the ending .error, which says why.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file


def main(job: dict[str, Any]) -> None:
    torch.set_num_threads(job["threads"])
    for folder, output in zip(job["folders"], job["outputs"], strict=True):
        try:
            reload(folder, output, job)
        except Exception as error:
            Path(f"{output}.error").write_text(f"{type(error).__name__}: {error}")


@torch.no_grad()
def reload(folder: str, output: str, job: dict[str, Any]) -> None:
    model = load(folder, getattr(torch, job["dtype"]), job["trust_parts"])
    model.to(job["device"]).eval()
    found = {"output": first_tensor(model(**load_file(job["inputs"], device=job["device"])))}
    found |= {f"buffer.{name}": buffer for name, buffer in model.named_buffers()}
    save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in found.items()}, output)


def load(folder: str, dtype: torch.dtype, trust_parts: bool) -> Any:
    config, _ = transformers.PreTrainedConfig.get_config_dict(folder)
    if config.get("model_type") == "layersmith":
        from layersmith.checkpoint.hf import LayersmithModel

        return LayersmithModel.from_pretrained(folder, dtype=dtype, trust_remote_code=trust_parts)
    return getattr(transformers, config["architectures"][0]).from_pretrained(folder, dtype=dtype)


def first_tensor(output: Any) -> torch.Tensor:
    """The first tensor of what a model returns: logits, or hidden states of a model without a head."""
    while not isinstance(output, torch.Tensor):
        output = output[0]
    return output


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
