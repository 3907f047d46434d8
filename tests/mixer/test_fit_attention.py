"""FIT attention against float64 loops over groups, its limit case, and how far what is known reaches."""

import pytest
import torch

from layersmith.mixer.fit_attention import FITAttention


def read(part, queries, others):
    """Softmax attention of each of some vectors (N, D) to others (M, D), head by head."""
    d, out = part.head_dim, []
    for x in queries:
        heads = []
        for h in range(part.q.out_features // d):
            own = slice(h * d, (h + 1) * d)
            scores = torch.stack([part.q(x)[own] @ part.k(other)[own] / d**0.5 for other in others])
            heads.append(sum(w * part.v(other)[own] for w, other in zip(scores.softmax(0), others, strict=True)))
        out.append(part.o(torch.cat(heads)))
    return torch.stack(out)


def by_groups(m, x):
    """The equations for one text x (T, D), one group after the other."""
    out, latents, told = [], [], None
    for begin in range(0, len(x), m.group):
        group = x[begin : begin + m.group]
        local = m.local(group[None])[0][0]
        a = m.norm_tokens(group + local)
        out.append(local if told is None else local + read(m.spread, a, m.norm_latents(told)))
        if len(group) == m.group:
            z = m.z + read(m.gather, m.norm_latents(m.z), a)
            latents.append(z)
            told = z + read(m.across, m.norm_latents(z), m.norm_latents(torch.cat(latents)))
    return torch.cat(out)


def built(**changes):
    torch.manual_seed(0)
    m = FITAttention(16, 2, **{"group": 5, "latents": 2, **changes}).double()
    torch.nn.init.normal_(m.spread.o.weight)
    torch.nn.init.normal_(m.z)
    return m


def inputs(*shape):
    return torch.randn(*shape, 16, dtype=torch.float64)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


@torch.no_grad()
@pytest.mark.oracle("fit_attention")
@pytest.mark.parametrize("tokens", [3, 5, 20, 23])
def test_equals_groups(tokens):
    m = built(rope_theta=100.0)
    x = inputs(2, tokens)
    close(m(x)[0], torch.stack([by_groups(m, row) for row in x]))


@torch.no_grad()
@pytest.mark.oracle("fit_attention")
def test_at_the_start_it_is_attention_inside_groups():
    torch.manual_seed(0)
    m = FITAttention(16, 2, group=5, latents=2).double()
    x = inputs(1, 20)
    close(m(x)[0].view(4, 5, 16), m.local(x.view(4, 5, 16))[0])


def test_every_earlier_group_is_heard_and_none_of_the_later_tokens():
    m = built()
    x = inputs(1, 20).requires_grad_()
    (slope,) = torch.autograd.grad(m(x)[0][0, 17].sum(), x)
    reached = slope[0].abs().amax(-1) > 0
    assert reached[:18].all()
    assert not reached[18:].any()


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[23], [9, 14], [1] * 23, [5, 1, 0, 17]], ids=str)
def test_streaming_and_padding(sizes):
    """However a text is cut and padded, real tokens get what they have alone, and so do those that follow."""
    m = built(rope_theta=100.0)
    mask = torch.ones(5, 23, dtype=torch.bool)
    mask[0, :6] = mask[1, 15:] = mask[2, [1, 2, 7, 13, 14, 15, 20]] = mask[4] = False
    x, more = inputs(5, 23), inputs(5, 7)
    for given in (None, mask):
        state, outputs, start = None, [], 0
        for size in sizes:
            part = slice(start, start + size)
            y, state = m(x[:, part], state, None if given is None else given[:, part])
            outputs.append(y)
            start += size
        assert state["k"].shape[2] <= 4 * 2
        after, _ = m(more, state)
        got = torch.cat(outputs, 1)
        assert got.isfinite().all()
        for row in range(5):
            real = x[row] if given is None else x[row, given[row]]
            alone, _ = m(torch.cat((real, more[row]))[None])
            close(torch.cat((got[row] if given is None else got[row, given[row]], after[row])), alone[0])


def test_the_state_is_some_latents_for_each_group():
    m = built(group=10)
    per_group, rest = 2 * 2 * 16 * 8, (2 * 16 + 1) * 8
    assert m.state_bytes(800) == 80 * per_group + rest
    assert m.state_bytes(807) == 80 * per_group + rest + 7 * 16 * 8


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="latents must be a positive integer"):
        built(latents=0)
