"""For recall_trials.py, run by the Python of an environment with what zoology needs: its own trainings of recall.

    python recall_trials_theirs.py CHECKOUT VOCABULARY TOKENS PAIRS TRIALS LEARNING_RATE

Its example of multi-query associative recall (`experiments/basic_examples/basic.py`: two layers of one-headed
attention, 128 wide, 10,000 examples, at most 100 times over, ended by itself above an accuracy of 0.99) without dropout
in attention and with blanks between questions, one training after the other, as its launcher runs them on a machine
without a GPU. Its positions, which it makes on a GPU on any machine, are made where the model is. Of torchvision it
needs one class, which at a rate of 0 passes on what it gets; where that is not installed, such a one is put in its
place. Prints JSON. Nothing here imports layersmith.
"""

import json
import sys
import time
import types

import torch

try:
    import torchvision.ops  # noqa: F401
except ImportError:
    ops = types.ModuleType("torchvision.ops")
    ops.StochasticDepth = torch.nn.Identity
    sys.modules |= {"torchvision": types.ModuleType("torchvision"), "torchvision.ops": ops}

EXAMPLES, TEST_EXAMPLES = 10_000, 1_000


def main(checkout: str, vocabulary: int, tokens: int, pairs: int, trials: int, rate: float) -> None:
    sys.path.insert(0, checkout)
    from zoology import train
    from zoology.config import DataConfig, ModelConfig, ModuleConfig, TrainConfig
    from zoology.data.multiquery_ar import MQARConfig

    ends, steps = [], []

    class Watched(train.Trainer):
        """Its trainer, which keeps what it prints."""

        def fit(self) -> None:
            steps.append(0)
            self.model.backbone.embeddings.device = self.device
            super().fit()

        def test(self, epoch_idx: int) -> dict:
            steps[-1] += len(self.train_dataloader)
            self.found = super().test(epoch_idx)
            return self.found

    class Kept(Watched):
        def fit(self) -> None:
            super().fit()
            ends.append(self.found["valid/accuracy"])

    train.Trainer = Kept
    sizes = {"vocab_size": vocabulary, "input_seq_len": tokens, "num_kv_pairs": pairs, "random_non_queries": False}
    start = time.perf_counter()
    for seed in range(trials):
        train.train(
            TrainConfig(
                seed=seed,
                learning_rate=rate,
                data=DataConfig(
                    seed=seed,
                    train_configs=[MQARConfig(num_examples=EXAMPLES, **sizes)],
                    test_configs=[MQARConfig(num_examples=TEST_EXAMPLES, **sizes)],
                ),
                model=ModelConfig(
                    vocab_size=vocabulary,
                    max_position_embeddings=tokens,
                    sequence_mixer=ModuleConfig(name="zoology.mixers.attention.MHA", kwargs={"num_heads": 1}),
                ),
            )
        )
    took = time.perf_counter() - start
    said = {"seconds": took, "accuracies": ends, "steps": steps, "threads": torch.get_num_threads()}
    print(json.dumps({**said, "torch": torch.__version__}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:6]), float(sys.argv[6]))
