"""Bandits in context: read how a learner pulls arms and is paid, and pull the arm that it would pull next.

    n_arms tokens:   (x_k, e_k)              the arms, new in every sequence: x_k uniform in [-1, 1]^d
    n_steps tokens:  (x_a, e_a, 1, payment)  the arm a that was pulled, and what it paid: theta . x_a + noise,
                                             theta ~ N(0, I)

Asked after the last arm and after every payment: which arm comes next, of n_arms. The learner is LinUCB,

    a = argmax_k  m . x_k + width sqrt(x_k' V x_k),     m and V: posterior mean and covariance of theta

except that it pulls any arm at random with a probability of its own, new in every history and uniform from 0 to
`carelessness`. What is trained on (`imitates`):

    teacher   what LinUCB would pull there, in every history
    learner   what the learner did pull: its whole learning history is imitated, with its carelessness

Judged is agreement with LinUCB in both cases, on learners' histories, so that an oracle is always right. What imitation
is worth in payments is another question, which `rolled_out` answers: a policy pulls arms by itself, and its regret is
what the best arm would have paid more.

`kept` below 1 trains on that share of histories, those of the largest improvement + stability: the mean payment of the
last third less that of the first, and less by what the means of thirds fall on the way.

Papers: "Transformers as Decision Makers: Provable In-Context Reinforcement Learning via Supervised Pretraining" (linear
bandits, all of a trajectory imitated, LinUCB and Thompson sampling; arms, noise and theta as in the released code's
settings for Thompson sampling); "Filtering Learning Histories Enhances In-Context Reinforcement Learning", arXiv
2505.15143 (histories filtered by a sum of improvement and stability; how it measures these two was not confirmed).
Differs from the papers: the best arm as a label (decision pre-training) and environments with states are not here. The
second weighs stability by a setting, which is 1 here, and weighs histories as well as filtering them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.racing.task import IGNORED, Batch, Split, Task
from layersmith.racing.tasks.shared.checks import number, one_of, whole
from layersmith.racing.tasks.shared.drawing import judged

IMITATES = ("teacher", "learner")
#: Deviations of the posterior that LinUCB adds to a mean.
WIDTH = 1.0
#: Sequences that the online yardsticks are measured on.
ROLLED = 512

#: Chooses the next arms (B,) from the arms (B, n_arms, d), the pulls so far (B, t) and their payments (B, t).
Policy = Callable[[Tensor, Tensor, Tensor], Tensor]


class Bandit(Task):
    """
    imitates      teacher or learner: what is trained on
    n_arms        arms of a bandit
    n_dims        length of an arm
    n_steps       pulls in a history
    noise         standard deviation of a payment
    carelessness  largest share of pulls at random
    kept          share of the histories that are trained on
    """

    name = "bandit"
    summary = "Pull the arm that an upper-confidence learner would pull next, from its history in the prompt."
    papers = ("transformers-decision-makers", "filtering-learning-histories-enhances-context")
    reads = "features"

    def __init__(
        self,
        imitates: str = "teacher",
        n_arms: int = 5,
        n_dims: int = 3,
        n_steps: int = 24,
        noise: float = 0.5,
        carelessness: float = 0.5,
        kept: float = 1.0,
    ):
        self.imitates = one_of("imitates", imitates, IMITATES)
        self.n_arms, self.n_dims = whole("n_arms", n_arms, 2), whole("n_dims", n_dims, 1)
        self.n_steps, self.noise = whole("n_steps", n_steps, 3), number("noise", noise, 0.01, 10)
        self.carelessness, self.kept = number("carelessness", carelessness, 0, 1), number("kept", kept, 0.05, 1)
        self.n_inputs, self.n_outputs, self.tokens = n_dims + n_arms + 2, n_arms, n_arms + n_steps

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        drawn = round(size / self.kept) if split == "train" else size
        arms, theta = self.bandits(generator, drawn)
        careless = self.carelessness * torch.rand(drawn, 1, generator=generator, device="cpu")
        slips = torch.rand(drawn, self.n_steps + 1, generator=generator, device="cpu") < careless
        anything = torch.randint(self.n_arms, slips.shape, generator=generator, device="cpu")
        noise = self.noise * torch.randn(drawn, self.n_steps, generator=generator, device="cpu")
        mean, covariance = self.prior(drawn)
        pulls: list[Tensor] = []
        payments: list[Tensor] = []
        teacher: list[Tensor] = []
        for t in range(self.n_steps + 1):
            teacher.append(upper_bound(arms, mean, covariance))
            pulls.append(torch.where(slips[:, t], anything[:, t], teacher[t]))
            if t < self.n_steps:
                x = _of(arms, pulls[t][:, None])[:, 0]
                payments.append((x * theta).sum(-1) + noise[:, t])
                mean, covariance = self.updated(mean, covariance, x, payments[t])
        return self._chosen(arms, [torch.stack(each, 1) for each in (pulls, payments, teacher)], size, split)

    def _chosen(self, arms: Tensor, histories: list[Tensor], size: int, split: Split) -> Batch:
        """The batch of the `size` best histories, in the order they were drawn in."""
        pulls, payments, teacher = histories
        labels = pulls if split == "train" and self.imitates == "learner" else teacher
        best = (improvement(payments) + stability(payments)).argsort(descending=True, stable=True)[:size].sort().values
        targets = torch.full((size, self.tokens), IGNORED)
        targets[:, self.n_arms - 1 :] = labels[best]
        return Batch(self.written(arms[best], pulls[best, :-1], payments[best]), targets)

    def bandits(self, generator: torch.Generator, size: int) -> tuple[Tensor, Tensor]:
        """Arms (B, n_arms, d), and what is unknown of them, theta (B, d)."""
        arms = 2 * torch.rand(size, self.n_arms, self.n_dims, generator=generator, device="cpu") - 1
        return arms, torch.randn(size, self.n_dims, generator=generator, device="cpu")

    def written(self, arms: Tensor, pulls: Tensor, payments: Tensor) -> Tensor:
        """What a model reads of a history of any length t: (B, n_arms + t, n_inputs)."""
        size, t = pulls.shape
        names = torch.eye(self.n_arms).expand(size, -1, -1)
        shown = torch.cat([arms, names, torch.zeros(size, self.n_arms, 2)], 2)
        pulled = torch.cat([_of(arms, pulls), _of(names, pulls), torch.ones(size, t, 1), payments[..., None]], 2)
        return torch.cat([shown, pulled], 1)

    def yardsticks(self) -> dict[str, float]:
        """On 2048 sequences. random: any arm; linear: the arm of the largest posterior mean; Thompson: that of the
        largest payment for one theta drawn from the posterior; oracle: LinUCB, which is what is asked."""
        batch = judged(self)
        wanted = batch.targets[:, self.n_arms - 1 :]
        draws = torch.Generator().manual_seed(0)
        policies: dict[str, Policy] = {
            "linear": self.greedy,
            "Thompson": lambda arms, pulls, payments: self.thompson(arms, pulls, payments, draws),
            "oracle": self.lin_ucb,
        }
        return {"random": 1 / self.n_arms} | {
            name: float((self._everywhere(policy, batch.inputs) == wanted).double().mean())
            for name, policy in policies.items()
        }

    def lin_ucb(self, arms: Tensor, pulls: Tensor, payments: Tensor) -> Tensor:
        return upper_bound(arms, *self.posterior(arms, pulls, payments))

    def greedy(self, arms: Tensor, pulls: Tensor, payments: Tensor) -> Tensor:
        mean, _ = self.posterior(arms, pulls, payments)
        return (arms.double() @ mean[..., None])[..., 0].argmax(1)

    def thompson(self, arms: Tensor, pulls: Tensor, payments: Tensor, generator: torch.Generator) -> Tensor:
        mean, covariance = self.posterior(arms, pulls, payments)
        draw = torch.randn(mean.shape, generator=generator, device="cpu").double()
        theta = mean + (torch.linalg.cholesky(covariance) @ draw[..., None])[..., 0]
        return (arms.double() @ theta[..., None])[..., 0].argmax(1)

    def posterior(self, arms: Tensor, pulls: Tensor, payments: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, d) and covariance (B, d, d) of theta, float64."""
        x = _of(arms, pulls).double()
        covariance = torch.linalg.inv(x.mT @ x / self.noise**2 + torch.eye(self.n_dims).double())
        covariance = (covariance + covariance.mT) / 2
        return (covariance @ (x.mT @ payments.double()[..., None]))[..., 0] / self.noise**2, covariance

    def prior(self, size: int) -> tuple[Tensor, Tensor]:
        """Mean (B, d) and covariance (B, d, d) of theta before any payment, float64."""
        eye = torch.eye(self.n_dims).double()
        return torch.zeros(size, self.n_dims).double(), eye.repeat(size, 1, 1)

    def updated(self, mean: Tensor, covariance: Tensor, x: Tensor, payment: Tensor) -> tuple[Tensor, Tensor]:
        """Those after one more payment (B,) of x (B, d)."""
        reach = (covariance @ x.double()[..., None])[..., 0]
        variance = (reach * x).sum(-1, keepdim=True) + self.noise**2
        surprise = payment[:, None] - (mean * x).sum(-1, keepdim=True)
        return mean + reach * surprise / variance, covariance - reach[:, :, None] * (reach / variance)[:, None]

    def rolled_out(self, policy: Policy, generator: torch.Generator, size: int = ROLLED) -> Tensor:
        """The regret of every pull when the policy pulls the arms itself: (B, n_steps), in payments, without noise."""
        arms, theta = self.bandits(generator, size)
        noise = self.noise * torch.randn(size, self.n_steps, generator=generator, device="cpu")
        worth = (arms @ theta[..., None])[..., 0]
        pulls, payments = torch.zeros(size, 0).long(), torch.zeros(size, 0)
        for t in range(self.n_steps):
            pulls = torch.cat([pulls, policy(arms, pulls, payments)[:, None]], 1)
            paid = worth.gather(1, pulls[:, -1:]) + noise[:, t, None]
            payments = torch.cat([payments, paid], 1)
        return worth.amax(1, keepdim=True) - worth.gather(1, pulls)

    def _everywhere(self, policy: Policy, inputs: Tensor) -> Tensor:
        """What a policy pulls after every token that asks: (B, n_steps + 1)."""
        arms, steps = inputs[:, : self.n_arms, : self.n_dims], inputs[:, self.n_arms :]
        pulls = steps[..., self.n_dims : self.n_dims + self.n_arms].argmax(-1)
        return torch.stack([policy(arms, pulls[:, :t], steps[:, :t, -1]) for t in range(self.n_steps + 1)], 1)


def upper_bound(arms: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """LinUCB's arm: of the largest mean and WIDTH deviations. (B,)"""
    x = arms.double()
    wide = ((x @ covariance) * x).sum(-1).clamp_min(0).sqrt()
    return ((x @ mean[..., None])[..., 0] + WIDTH * wide).argmax(1)


def improvement(payments: Tensor) -> Tensor:
    """(B, n) -> (B,): the mean of the last third of payments less that of the first."""
    first, _, last = _thirds(payments)
    return last - first


def stability(payments: Tensor) -> Tensor:
    """(B, n) -> (B,): 0 where the means of thirds never fall, and the less the more they fall."""
    first, middle, last = _thirds(payments)
    return -(F.relu(first - middle) + F.relu(middle - last)) / 2


def _thirds(payments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    third = payments.shape[1] // 3
    return payments[:, :third].mean(1), payments[:, third:-third].mean(1), payments[:, -third:].mean(1)


def _of(rows: Tensor, pulls: Tensor) -> Tensor:
    """rows (B, K, d) at pulls (B, t): (B, t, d)"""
    return rows.gather(1, pulls[..., None].expand(-1, -1, rows.shape[2]))
