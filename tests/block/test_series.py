"""Series: its sums written out, a macaron layer that is a plain one, and what it refuses."""

import pytest
import torch

from layersmith import catalogue
from layersmith.errors import UserError
from tests.block.small import FFN, LAYER, NORM, SOFTMAX, D, block, tokens


@pytest.mark.oracle("series")
@torch.no_grad()
def test_sums_are_weighted_as_said():
    layer = block("series", **LAYER, residual={"mixer": [0.5, 2.0], "ffn": [3.0, 0.25]})
    x = tokens()
    h = 0.5 * x + 2 * layer.mixer(layer.norm(x))[0]
    torch.testing.assert_close(layer(x)[0], 3 * h + layer.ffn(layer.ffn_norm(h)) / 4)
    post = block("series", **LAYER, norm_position="post")
    h = post.norm(x + post.mixer(x)[0])
    torch.testing.assert_close(post(x)[0], post.ffn_norm(h + post.ffn(h)))


@pytest.mark.oracle("series")
@torch.no_grad()
def test_a_macaron_layer_can_be_the_plain_one():
    """With the first half silent and the second twice as large; the order of the halves is first, mixer, second."""
    half = {"mixer": [1.0, 1.0], "ffn": [1.0, 0.5]}
    plain = block("series", **LAYER)
    macaron = block("series", **LAYER, first={"norm": NORM, "ffn": FFN}, residual=half)
    macaron.load_state_dict(plain.state_dict(), strict=False)
    x = tokens()
    h = x + macaron.first_ffn(macaron.first_norm(x)) / 2
    h = h + macaron.mixer(macaron.norm(h))[0]
    torch.testing.assert_close(macaron(x)[0], h + macaron.ffn(macaron.ffn_norm(h)) / 2)
    macaron.first_ffn.down.weight.zero_()
    macaron.ffn.down.weight.mul_(2)
    torch.testing.assert_close(macaron(x)[0], plain(x)[0])


@torch.no_grad()
def test_halved_feed_forwards_cost_what_one_does():
    halves = {**LAYER, "ffn": {**FFN, "d_hidden": 6}, "first": {"norm": NORM, "ffn": {**FFN, "d_hidden": 6}}}
    assert block("series", **halves).cost().params == block("series", **LAYER).cost().params + D


@torch.no_grad()
def test_without_a_branch_and_without_a_skip():
    only_skip = block("series", **LAYER, residual={"mixer": [1, 0], "ffn": [1, 0]})
    torch.testing.assert_close(only_skip(tokens())[0], tokens())
    only_branch = block("series", **LAYER, residual={"mixer": [0, 1], "ffn": [0, 1]})
    want = only_branch.ffn(only_branch.ffn_norm(only_branch.mixer(only_branch.norm(tokens()))[0]))
    torch.testing.assert_close(only_branch(tokens())[0], want)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norm_position": "beside"}, "norm_position='beside' is unknown"),
        ({"residual": {"mixer": [1.0]}}, "two pairs"),
        ({"mixer": FFN}, "family 'ffn' and cannot be the mixer"),
        ({"mixer": "softmax_attention"}, "is a spec such as"),
        ({"ffn": {**FFN, "d_model": 4}}, "d_model=4, the model has 8"),
        ({"ffn": {"name": "zero"}, "sub_norm": NORM}, "no output map 'down'"),
        ({"mixer": {**SOFTMAX, "n_heads": 3}}, "n_heads=3"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(changes, said):
    with pytest.raises(UserError, match=said):
        block("series", **{**LAYER, **changes})


def test_code_of_the_users_own_inside_needs_trust():
    own = {"name": "series", "d_model": D, **LAYER, "mixer": {"name": "layersmith.mixer.softmax:SoftmaxAttention"}}
    own["mixer"]["n_heads"] = 2
    with pytest.raises(UserError, match="trust_remote_code=True"):
        catalogue.build(own)
    assert catalogue.build(own, trust_remote_code=True).mixer.head_dim == 4
    with pytest.raises(UserError, match="trust_remote_code=True"):
        catalogue.build(own)
