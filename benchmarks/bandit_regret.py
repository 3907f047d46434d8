"""What is imitation of a bandit's learner worth in payments, and does it help to imitate its better histories alone?

    python benchmarks/bandit_regret.py [--seeds 3] [--steps 1500]

A small transformer learns from histories of LinUCB with slips (the task `bandit`) and then pulls arms by itself, drawn
from what it gives them. Trained on: the teacher's arm in every history; what the learner did pull; and that, of the
best quarter of histories only (improvement + stability). `regret` is what the best arm would have paid more, summed
over all pulls, a mean over 512 new bandits; LinUCB, Thompson sampling, learners and any arm at all stand beside it.

The claims that are looked at: such a model comes close to its teacher ("Transformers as Decision Makers: Provable
In-Context Reinforcement Learning via Supervised Pretraining"), and filtered histories make a better one ("Filtering
Learning Histories Enhances In-Context Reinforcement Learning").

Writes results/bandit_regret.csv.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from record import save_csv
from torch import Tensor, nn

from layersmith.measuring.environment import environment
from layersmith.model.spec import read_spec
from layersmith.model.task_model import build
from layersmith.racing.optimizer import set_rate
from layersmith.racing.optimizers import build_rule
from layersmith.racing.task import Batch
from layersmith.racing.tasks.bandit import Bandit, Policy
from layersmith.racing.train import ends_of, rate

SPEC = {"d_model": 48, "n_layers": 3, "n_heads": 2, "mixer": "softmax_attention", "ffn": "mlp"}
LR, DECAY, BATCH = 3e-3, 0.01, 64
#: What learners slip in all histories here.
CARELESS = 0.8
TRAINED: dict[str, dict[str, Any]] = {
    "teacher": {"imitates": "teacher"},
    "learner": {"imitates": "learner"},
    "learner, best quarter": {"imitates": "learner", "kept": 0.25},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        for name, settings in TRAINED.items():
            task = Bandit(carelessness=CARELESS, **settings)
            model = trained(task, arguments.steps, seed)
            policy = policy_of(model, task, torch.Generator().manual_seed(seed))
            rows.append(row(f"transformer: {name}", task, policy, seed, steps=arguments.steps))
        for name, policy in yardsticks(task, torch.Generator().manual_seed(seed)).items():
            rows.append(row(name, task, policy, seed))
    print(save_csv("bandit_regret", rows, environment()))


def row(name: str, task: Bandit, policy: Policy, seed: int, steps: int = 0) -> dict[str, Any]:
    """What a policy loses on the bandits of this seed, which are the same for all policies, and in the last third."""
    regret = task.rolled_out(policy, torch.Generator().manual_seed(1000 + seed))
    third = task.n_steps // 3
    total, late = float(regret.sum(1).mean()), float(regret[:, -third:].sum(1).mean())
    found = {"policy": name, "seed": seed, "trained_steps": steps, "regret": total, "last_third": late}
    print(found, flush=True)
    return found


def yardsticks(task: Bandit, generator: torch.Generator) -> dict[str, Policy]:
    def anything(arms: Tensor, pulls: Tensor, payments: Tensor) -> Tensor:
        return torch.randint(task.n_arms, (len(arms),), generator=generator)

    def careless(arms: Tensor, pulls: Tensor, payments: Tensor) -> Tensor:
        slips = torch.rand(len(arms), generator=generator) < CARELESS / 2
        return torch.where(slips, anything(arms, pulls, payments), task.lin_ucb(arms, pulls, payments))

    def thompson(arms: Tensor, pulls: Tensor, payments: Tensor) -> Tensor:
        return task.thompson(arms, pulls, payments, generator)

    return {"LinUCB": task.lin_ucb, "Thompson": thompson, "learner, mean slips": careless, "random": anything}


def policy_of(model: nn.Module, task: Bandit, generator: torch.Generator) -> Policy:
    """Draws an arm from what the model gives them after a history."""

    @torch.no_grad()
    def pull(arms: Tensor, pulls: Tensor, payments: Tensor) -> Tensor:
        chances = model(task.written(arms, pulls, payments))[:, -1].softmax(-1)
        return torch.multinomial(chances, 1, generator=generator)[:, 0]

    return pull


def trained(task: Bandit, steps: int, seed: int) -> nn.Module:
    """A model after training as a trial of a race trains."""
    torch.manual_seed(seed)
    model = build(read_spec(SPEC), ends_of(task))
    rule, data = build_rule("adamw"), torch.Generator().manual_seed(seed)
    optimizers = rule.optimizers(model, LR, DECAY)
    for step in range(steps):
        batch = task.batch(data, BATCH)
        set_rate(optimizers, LR * rate(step, steps))

        def gradient(batch: Batch = batch) -> float:
            model.zero_grad(set_to_none=True)
            loss = task.loss(model(batch.inputs), batch)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            return loss.item()

        rule.step(optimizers, gradient)
    return model.eval()


if __name__ == "__main__":
    main()
