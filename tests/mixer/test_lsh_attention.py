"""LSH attention against a float64 loop over pairs, its limit case, and what more rounds gain."""

import math

import pytest
import torch
import torch.nn.functional as F

from layersmith.mixer.lsh_attention import OWN, LSHAttention


def by_pairs(m, x):
    """The equation, one head, round and query at a time, for one text x (T, D)."""
    heads, d = m.q.out_features // m.head_dim, m.head_dim
    rounds = m.directions.shape[1]
    q, v = m.q(x), m.v(x)
    out = torch.zeros_like(q)
    for h in range(heads):
        own = slice(h * d, (h + 1) * d)
        keys = [q[s, own] / q[s, own].norm() for s in range(len(x))]
        of_round = []
        for r in range(rounds):
            along = [key @ m.directions[h, r] for key in keys]
            bucket = [int(torch.cat((a, -a)).argmax()) for a in along]
            chunk = [sum(bucket[e] == bucket[s] for e in range(s)) // m.chunk for s in range(len(x))]
            of_round.append((bucket, chunk))
        for t in range(len(x)):
            sums, reads = [], []
            for bucket, chunk in of_round:
                seen = [s for s in range(t + 1) if bucket[s] == bucket[t] and chunk[t] - chunk[s] in (0, 1)]
                scores = torch.stack([x.new_tensor(OWN) if s == t else m.scale * (q[t, own] @ keys[s]) for s in seen])
                reads.append(sum(w * v[s, own] for w, s in zip(scores.softmax(0), seen, strict=True)))
                sums.append(scores.logsumexp(0))
            out[t, own] = sum(w * y for w, y in zip(torch.stack(sums).softmax(0), reads, strict=True))
    return m.o(out)


def built(**changes):
    torch.manual_seed(0)
    return LSHAttention(16, 2, **{"buckets": 4, "rounds": 3, "chunk": 3, **changes}).double()


def inputs(*shape):
    return torch.randn(*shape, 16, dtype=torch.float64)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


@torch.no_grad()
@pytest.mark.oracle("lsh_attention")
@pytest.mark.parametrize(("tokens", "scale"), [(1, None), (2, None), (20, None), (31, None), (31, 0.3)])
def test_equals_pairs(tokens, scale):
    m = built(scale=scale)
    x = inputs(2, tokens)
    close(m(x)[0], torch.stack([by_pairs(m, row) for row in x]))


def shared_queries(m, x):
    """Softmax attention whose keys are its queries at length 1, scores as they are, each token's own set apart."""
    q, v = (part.unflatten(-1, (-1, m.head_dim)).transpose(1, 2) for part in (m.q(x), m.v(x)))
    scores = q @ F.normalize(q, dim=-1).mT
    place = torch.arange(x.shape[1])
    scores = scores.masked_fill(place == place[:, None], OWN).masked_fill(place > place[:, None], -math.inf)
    return m.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


@torch.no_grad()
@pytest.mark.oracle("lsh_attention")
def test_one_bucket_and_a_long_chunk_is_full_attention_with_shared_queries():
    m = built(buckets=2, chunk=40)
    m.directions.zero_()  # every token in the first bucket
    x = inputs(2, 40)
    close(m(x)[0], shared_queries(m, x))


@torch.no_grad()
def test_more_rounds_come_closer_to_full_attention():
    errors = []
    for rounds in (1, 2, 4, 8):
        distances = []
        for seed in range(4):
            torch.manual_seed(seed)
            m = LSHAttention(16, 2, buckets=4, rounds=rounds, chunk=64).double()
            m.q.weight.mul_(4.0)  # scores that differ
            x = inputs(2, 64)
            want = shared_queries(m, x)
            distances.append(float((m(x)[0] - want).norm() / want.norm()))
        errors.append(sum(distances))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.7 * errors[0]


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[23], [9, 14], [1] * 23, [5, 1, 0, 17]], ids=str)
def test_streaming_and_padding(sizes):
    """However a text is cut and padded, real tokens get what they have alone, and so do those that follow."""
    m = built(rope_theta=100.0)
    mask = torch.ones(4, 23, dtype=torch.bool)
    mask[0, :6] = mask[1, 15:] = mask[2, [1, 2, 7, 13, 14, 15, 20]] = False
    x, more = inputs(4, 23), inputs(4, 7)
    for given in (None, mask):
        state, outputs, start = None, [], 0
        for size in sizes:
            part = slice(start, start + size)
            y, state = m(x[:, part], state, None if given is None else given[:, part])
            outputs.append(y)
            start += size
        after, _ = m(more, state)
        got = torch.cat(outputs, 1)
        for row in range(4):
            real = x[row] if given is None else x[row, given[row]]
            alone, _ = m(torch.cat((real, more[row]))[None])
            close(torch.cat((got[row] if given is None else got[row, given[row]], after[row])), alone[0])


@torch.no_grad()
def test_a_row_of_padding_is_finite():
    m = built()
    assert m(inputs(1, 6), mask=torch.zeros(1, 6, dtype=torch.bool))[0].isfinite().all()


def test_work_grows_with_the_tokens_and_not_with_their_square():
    m = built(chunk=16)
    assert m.cost(1, 4096).flops == 4 * m.cost(1, 1024).flops


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="buckets=5 must be even"):
        built(buckets=5)
