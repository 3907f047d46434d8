"""Our AF-KAN beside the authors' layers, fed one token at a time so that their batch statistics are those of a token.

python benchmarks/official/af_kan.py ALL_KAN        path of a checkout
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from official.checkout import commit, load
from record import save_official

from layersmith.ffn.af_kan import AFKAN
from layersmith.ffn.shared.kan_basis import COMBINATIONS

D, HIDDEN, TOKENS = 24, 40, 50
THEIR_NAMES = {"attention": "global_attn", "linear": "multistep"}


@torch.no_grad()
def difference(checkout: Path, combine: str, reduce: str, act: str) -> float:
    theirs = load(checkout, "models/af_kan.py").AF_KANLayer
    ours = AFKAN(D, HIDDEN, combine=combine, reduce=reduce, act=act)
    layers = []
    for mine, (d_in, d_out) in ((ours.up, (D, HIDDEN)), (ours.down, (HIDDEN, D))):
        other = theirs(d_in, 5, 3, d_out, methods=[THEIR_NAMES[reduce]], func=combine, base_activation=act)
        for parameter in (mine.basis.start, mine.basis.end, mine.mix, mine.norm.weight, mine.norm.bias):
            parameter.add_(0.1 * torch.randn_like(parameter))
        other.phase_low.copy_(mine.basis.start)
        other.phase_high.copy_(mine.basis.end)
        other.gk_linear.weight.copy_(mine.mix[None])
        other.norm.load_state_dict(mine.norm.state_dict())
        other.base_weight.copy_(mine.linear.weight)
        layers.append(other)
    x = torch.randn(TOKENS, D)
    expected = torch.cat([layers[1](layers[0](token[None, None]))[0] for token in x])
    return (ours(x) - expected).abs().max().item()


def main() -> None:
    checkout = Path(sys.argv[1])
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    worst = 0.0
    for combine in COMBINATIONS:
        for reduce in THEIR_NAMES:
            for act in ("silu", "relu"):
                found = difference(checkout, combine, reduce, act)
                print(f"{combine:9} {reduce:10} {act:5} {found:.2e}")
                worst = max(worst, found)
    save_official(
        "af_kan",
        part="af_kan",
        source=f"github:hoangthangta/All-KAN@{commit(checkout)}, models/af_kan.py",
        compared=f"outputs of two layers {D}-{HIDDEN}-{D}, float64, {TOKENS} tokens one at a time, {len(COMBINATIONS)} "
        "combinations, both reductions, SiLU and ReLU, all parameters random; the layers are composed by hand, because "
        "their AF_KAN does not pass its methods on to them",
        max_abs_diff=worst,
        tolerance=1e-9,
    )


if __name__ == "__main__":
    main()
