"""For dictionary.py, run by the Python of an environment with sae-lens: tokens per second of one step of its training.

    python dictionary_theirs.py WIDTH FEATURES K TOKENS ROUNDS

Its top-k autoencoder with Adam, on random inputs, no feature dead. Prints JSON. Nothing here imports layersmith.
"""

import dataclasses
import inspect
import json
import statistics
import sys
import time

import torch
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig, __version__
from sae_lens.saes.sae import TrainStepInput


def main(width: int, features: int, k: int, tokens: int, rounds: int) -> None:
    torch.manual_seed(0)
    settings = {"d_in": width, "d_sae": features, "k": k}
    if "use_sparse_activations" in {field.name for field in dataclasses.fields(TopKTrainingSAEConfig)}:
        settings["use_sparse_activations"] = True
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(**settings))
    optimizer = torch.optim.Adam(sae.parameters(), lr=2e-3)
    given = {
        "sae_in": torch.randn(tokens, width),
        "coefficients": {},
        "dead_neuron_mask": torch.zeros(features, dtype=torch.bool),
        "n_training_steps": 1,
        "is_logging_step": False,
    }
    known = inspect.signature(TrainStepInput).parameters
    step_input = TrainStepInput(**{name: value for name, value in given.items() if name in known})
    seconds = []
    for _ in range(2 + rounds):
        start = time.perf_counter()
        loss = sae.training_forward_pass(step_input).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    rate = tokens / statistics.median(seconds[2:])
    print(json.dumps({"version": __version__, "tokens_per_s": round(rate), "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
