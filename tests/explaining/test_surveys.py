"""The statistics and the lens on whole models: planted blocks, all shapes, shares that add up, resumption."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layersmith.anatomy import Replay, find_sites
from layersmith.errors import UserError
from layersmith.explaining import readout, statistics
from layersmith.explaining.attribution import Head, head_of, parts_of
from layersmith.explaining.pipeline import explain
from layersmith.measuring.divergence import main_output
from tests.explaining.conftest import BUILDERS, tiny

FFNS = "layers.*.ffn"


def survey(model, tokenizer, out, tool="statistics", **options):
    given = {"tokens": 512, "progress": False, "out": out, **options}
    return explain(model, tool=tool, tokenizer=tokenizer, **given)


def matrix(width: int, hidden: int, rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(width, rank, generator=generator) @ torch.randn(rank, hidden, generator=generator) / rank


def test_a_planted_linear_block_is_found_and_so_is_a_planted_rank(tokenizer, tmp_path) -> None:
    """GPT-2 with one block whose norms and attention are out of the way and whose feed-forward is a matrix."""
    model = tiny("gpt2")
    block = model.transformer.h[0]
    with torch.no_grad():
        block.attn.c_proj.weight.zero_()
        block.attn.c_proj.bias.zero_()
        block.mlp.c_fc.weight.copy_(matrix(32, 128, 4))
        block.mlp.c_fc.bias.zero_()
    block.ln_2, block.mlp.act = nn.Identity(), nn.Identity()
    found = survey(model, tokenizer, tmp_path / "o", tokens=4096)["survey"]["sites"]
    first, second = found["layers.0"], found["layers.1"]
    assert first["linearity"] == pytest.approx(1, abs=1e-4)
    assert first["linearity_of_update"] == pytest.approx(1, abs=1e-4)
    assert second["linearity_of_update"] < 0.9
    assert found["layers.0.ffn"]["linearity"] == pytest.approx(1, abs=1e-4)
    assert found["layers.0.ffn"]["hidden"] == 128
    assert 2 < found["layers.0.ffn"]["hard_rank"] <= found["layers.0.ffn"]["soft_rank"] <= 4.01
    assert found["layers.1.ffn"]["soft_rank"] > 8
    assert found["layers.0.attn"]["fragility"] == 0.0  # its output is a constant
    assert found["layers.0.ffn"]["fragility"] > 0.01


def test_a_planted_massive_activation_and_its_token_are_found(tokenizer, tmp_path) -> None:
    model = tiny("llama")
    (token,) = tokenizer(" the", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.model.embed_tokens.weight[token, 5] = 1e5
    document = survey(model, tokenizer, tmp_path / "o")
    for block in ("layers.0", "layers.1"):
        found = document["survey"]["sites"][block]
        assert found["massive"] > 0
        assert found["massive_ratio"] > 1000
        assert found["largest"][0]["column"] == 5
        assert found["largest"][0]["token"] == " the"
    assert "at the token" in (tmp_path / "o" / "report.html").read_text()


@pytest.mark.parametrize("tool", ["statistics", "lens"])
@pytest.mark.parametrize("shape", BUILDERS)
def test_every_shape_of_model(shape, tool, tokenizer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("layersmith.data.pictures.find_spec", lambda name: None)  # the drawn set, wherever this runs
    model = tiny(shape)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    implementation = model.config._attn_implementation
    options = {"settings": {"steps": 2}} if tool == "lens" else {}
    document = survey(model, None if shape == "vit" else tokenizer, tmp_path / "o", tool, **options)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert model.config._attn_implementation == implementation
    page = (tmp_path / "o" / "report.html").read_text()
    assert 'class="cell q8"' in page
    if tool == "statistics":
        sites = document["survey"]["sites"]
        ffns = [figures for figures in sites.values() if figures["kind"] == "ffn"]
        mixers = [figures for name, figures in sites.items() if name.endswith(".attn")]
        assert len(ffns) == len(mixers) == (4 if shape == "t5" else 2)
        assert all(f["linearity"] <= 1 and f["fragility"] > 0 and f["hard_rank"] > 1 for f in ffns)
        if shape != "t5":  # whose weights are returned only on request
            assert all(0 < m["first_received"] < 1 for m in mixers)
    else:
        layers = list(document["survey"]["layers"].values())
        assert layers[-1]["logit_divergence"] == layers[-1]["tuned_divergence"] == 0.0
        assert layers[0]["logit_divergence"] > 0


def test_statistics_go_on_where_they_were(llama, tokenizer, tmp_path, monkeypatch) -> None:
    whole = survey(llama, tokenizer, tmp_path / "whole")["survey"]
    looked = []
    look = statistics.look

    def fails(subject, index, sites, into):
        looked.append(index)
        if looked == [0, 1]:
            raise KeyboardInterrupt
        return look(subject, index, sites, into)

    monkeypatch.setattr(statistics, "look", fails)
    with pytest.raises(KeyboardInterrupt):
        survey(llama, tokenizer, tmp_path / "o")
    assert survey(llama, tokenizer, tmp_path / "o")["survey"] == whole
    assert looked == [0, 1, 1]


def test_only_the_sites_asked_for_are_looked_at(llama, tokenizer, tmp_path) -> None:
    sites = survey(llama, tokenizer, tmp_path / "o", sites="layers.1.ffn")["survey"]["sites"]
    whole = survey(llama, tokenizer, tmp_path / "p")["survey"]["sites"]
    assert set(sites) == {"layers.1", "layers.1.ffn"}
    assert sites["layers.1.ffn"] == whole["layers.1.ffn"]


@pytest.mark.parametrize("shape", ["llama", "gpt2", "t5"])
def test_shares_add_up_to_the_logits(shape) -> None:
    model = tiny(shape).double().requires_grad_(False)
    anatomy = find_sites(model)
    replay = Replay(model, anatomy)
    batch = {"input_ids": torch.randint(5, 4096, (2, 12), generator=torch.Generator().manual_seed(3))}
    if shape == "t5":
        batch["decoder_input_ids"] = batch["input_ids"][:, :7]
    entering = replay.block_inputs(batch)
    logits = main_output(model(**batch))
    head = head_of(model, anatomy, entering[-1], logits)
    assert isinstance(head, Head), head
    parts = parts_of(replay, anatomy, entering, batch)
    sublayers = {s.name for s in anatomy if s.kind in ("ffn", "mixer") and s.stack != "encoder"}
    assert set(parts) == {"embedding", *sublayers}
    scales = head.scales(entering[-1])
    for token in (7, 400, 4000):
        tokens = torch.full(logits.shape[:2], token)
        total = sum(head.shares(part, scales, tokens) for part in parts.values()) + head.constant(tokens)
        assert torch.allclose(total, logits[..., token] - logits.mean(-1), atol=1e-5, rtol=0)


def test_a_part_that_writes_a_token_is_credited_with_it() -> None:
    """The first feed-forward always writes the unembedding of one token, and no later part can see it."""
    model = tiny("gpt2").double().requires_grad_(False)
    anatomy, planted = find_sites(model), 123
    for block in model.transformer.h:
        for projection in (block.attn.c_proj, block.mlp.c_proj):
            projection.weight.zero_()
            projection.bias.zero_()
    model.transformer.h[0].mlp.c_proj.bias.copy_(10 * model.lm_head.weight[planted])
    replay, batch = Replay(model, anatomy), {"input_ids": torch.arange(20)[None]}
    entering, logits = replay.block_inputs(batch), main_output(model(**batch))
    head = head_of(model, anatomy, entering[-1], logits)
    parts = parts_of(replay, anatomy, entering, batch)
    tokens = torch.full((1, 20), planted)
    assert bool((logits.argmax(-1) == planted).all())
    shares = {n: head.shares(p, head.scales(entering[-1]), tokens).mean() for n, p in parts.items()}
    assert max(shares, key=shares.get) == "layers.0.ffn"
    assert shares["layers.1.ffn"] == shares["layers.1.attn"] == 0


def test_post_norm_blocks_are_attributed_whole_and_a_bent_head_is_said_to_be() -> None:
    model = tiny("bert").requires_grad_(False)
    anatomy = find_sites(model)
    replay = Replay(model, anatomy)
    batch = {"input_ids": torch.randint(5, 4096, (2, 12))}
    entering = replay.block_inputs(batch)
    parts = parts_of(replay, anatomy, entering, batch)
    assert set(parts) == {"embedding", "layers.0", "layers.1"}
    assert torch.allclose(sum(parts.values()), entering[-1], atol=1e-4)
    assert "final norm" in head_of(model, anatomy, entering[-1], main_output(model(**batch)))


def test_the_tuned_lens_is_exact_where_the_rest_of_the_model_is_affine(tokenizer, tmp_path) -> None:
    """With the last block taken to a matrix, its ridge translator reads what the model answers; the plain lens not."""
    model = tiny("gpt2")
    block = model.transformer.h[1]
    with torch.no_grad():
        block.attn.c_proj.weight.zero_()
        block.mlp.c_fc.weight.copy_(8 * matrix(32, 128, 16))
    block.ln_2, block.mlp.act = nn.Identity(), nn.Identity()
    found = survey(model, tokenizer, tmp_path / "o", "lens", settings={"steps": 0}, tokens=2048)["survey"]["layers"]
    assert found["layers.0"]["tuned_divergence"] < 1e-3
    assert found["layers.0"]["logit_divergence"] > 0.1


def test_training_never_makes_the_tuned_lens_worse_on_what_it_was_chosen_on(llama, tokenizer, tmp_path) -> None:
    plain = survey(llama, tokenizer, tmp_path / "a", "lens", settings={"steps": 0}, tokens=4096)["survey"]["layers"]
    tuned = survey(llama, tokenizer, tmp_path / "b", "lens", settings={"steps": 16}, tokens=4096)["survey"]["layers"]
    assert tuned["layers.0"]["tuned_divergence"] <= 1.02 * plain["layers.0"]["tuned_divergence"]


def test_a_model_that_does_not_answer_from_its_last_block_has_no_lens(llama, tokenizer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(readout.Readout, "read", lambda self, hidden, batch: self._whole(batch).logits + 1)
    with pytest.raises(UserError, match="no lens"):
        survey(llama, tokenizer, tmp_path / "o", "lens")


@pytest.mark.parametrize("tool", ["statistics", "lens"])
def test_a_model_in_half_precision(tool, tokenizer, tmp_path) -> None:
    model = tiny("llama").bfloat16()
    options = {"settings": {"steps": 2}} if tool == "lens" else {}
    found = survey(model, tokenizer, tmp_path / "o", tool, **options)["survey"]
    if tool == "lens":
        assert "float32" in found["no_attribution"]
    assert model.dtype == torch.bfloat16
