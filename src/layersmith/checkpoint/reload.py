"""The script `verify_reload` runs in a process of its own: load a folder, run it, write what comes out.

It imports transformers and nothing of layersmith, as a user's process would that was only handed the folder.

    python reload.py FOLDER INPUTS.safetensors OUTPUT.safetensors DEVICE THREADS TRUST
"""

import sys

import torch
import transformers
from safetensors.torch import load_file, save_file


def main(folder: str, inputs: str, output: str, device: str, threads: str, trust: str) -> None:
    torch.set_num_threads(int(threads))
    config, _ = transformers.PreTrainedConfig.get_config_dict(folder)
    if "auto_map" in config:
        options = {"trust_remote_code": True} if trust == "trust" else {}
        model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True, **options)
    else:
        model = getattr(transformers, config["architectures"][0]).from_pretrained(folder)
    model.to(device).eval()
    with torch.no_grad():
        out = model(**load_file(inputs, device=device))[0]
    save_file({"output": out.contiguous()}, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
