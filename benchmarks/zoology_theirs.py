"""For zoology_trials.py, run by the Python of an environment with einops and pandas: trials of zoology, one by one.

    python zoology_theirs.py CHECKOUT SETTINGS

SETTINGS is JSON: "trials", a list of [learning rate, seed], and what they have in common: "vocabulary", "pairs",
"tokens", "examples" to train on and "held_out", "d_model", "layers", "dropout", "batch", "weight_decay", "epochs" at
most, "threshold" of the accuracy on held-out examples above which their loop stops, "cache", the folder that keeps
their examples, and "threads".

Does what their launcher does without Ray: `zoology.train.train` for one configuration after the other. Prints, as its
last line, JSON: for each trial its accuracy and its steps. Nothing here imports layersmith.

Their files are run as they are. What stands in for something, because a CPU without their account has nothing better:

    device      `TokenEmbeddings` is on "cuda" unless told otherwise, and the model does not tell it: here it is told
    wandb       imported by their logger; a logger that keeps the accuracy stands in for that one
    torchvision imported for its StochasticDepth, of probability 0: the identity stands in

The loss is their "ce_embed", cross entropy where something is asked. With their default, "ce", the commit this was
written for (d88d6f5) stops at an error, because its model returns embeddings where the loss expects logits.
"""

import importlib
import json
import sys
import types
from functools import partial
from typing import Any

import torch
from torch import nn


class Identity(nn.Identity):
    """What StochasticDepth does with probability 0."""

    def __init__(self, p: float, mode: str):
        super().__init__()
        if p > 0:
            raise ValueError("Stochastic depth needs torchvision, which is not used here: leave drop_path at 0.")


class Kept:
    """In place of their logger: keeps what their loop tells it of a trial, in `latest` for whoever started that."""

    latest: "Kept"

    def __init__(self, config: Any):
        self.accuracy, self.steps = 0.0, 0
        Kept.latest = self

    def log_config(self, config: Any) -> None:
        pass

    def log_model(self, model: nn.Module, config: Any) -> None:
        pass

    def log(self, metrics: dict[str, Any]) -> None:
        if "valid/accuracy" in metrics:  # once an epoch; otherwise it is told of a step
            self.accuracy = metrics["valid/accuracy"]
        else:
            self.steps += 1

    def finish(self) -> None:
        pass


def main(checkout: str, settings: dict[str, Any]) -> None:
    torch.set_num_threads(settings["threads"])
    for name in ("wandb", "torchvision", "torchvision.ops"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torchvision.ops"].StochasticDepth = Identity
    sys.path.insert(0, checkout)
    model, train = (importlib.import_module(f"zoology.{name}") for name in ("model", "train"))
    model.TokenEmbeddings = partial(model.TokenEmbeddings, device="cpu")
    train.WandbLogger = Kept
    found = []
    for rate, seed in settings["trials"]:
        train.train(configuration(settings, rate, seed))
        found.append({"accuracy": Kept.latest.accuracy, "steps": Kept.latest.steps})
    print(json.dumps(found))


def configuration(settings: dict[str, Any], rate: float, seed: int) -> Any:
    """Their `experiments/basic_examples/basic.py` with these settings; what is not named there has their default."""
    config = importlib.import_module("zoology.config")
    segment = importlib.import_module("zoology.data.multiquery_ar").MQARConfig
    task = {
        "vocab_size": settings["vocabulary"],
        "input_seq_len": settings["tokens"],
        "num_kv_pairs": settings["pairs"],
        "random_non_queries": False,
    }
    mixer = {"dropout": settings["dropout"], "num_heads": 1}
    return config.TrainConfig(
        data=config.DataConfig(
            train_configs=[segment(num_examples=settings["examples"], **task)],
            test_configs=[segment(num_examples=settings["held_out"], **task)],
            batch_size=settings["batch"],
            cache_dir=settings["cache"],
        ),
        model=config.ModelConfig(
            vocab_size=settings["vocabulary"],
            max_position_embeddings=settings["tokens"],
            d_model=settings["d_model"],
            n_layers=settings["layers"],
            embed_dropout=settings["dropout"],
            sequence_mixer=config.ModuleConfig(name="zoology.mixers.attention.MHA", kwargs=mixer),
        ),
        loss_type="ce_embed",
        max_epochs=settings["epochs"],
        early_stopping_threshold=settings["threshold"],
        learning_rate=rate,
        weight_decay=settings["weight_decay"],
        seed=seed,
    )


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
