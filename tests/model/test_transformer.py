"""The reference transformer: trains, generates the same with and without cache, reloads, and refuses what cannot be."""

import sys

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from layersmith.contract import aux_losses
from layersmith.model import TransformerConfig, TransformerLM
from tests import forked

NORM = {"name": "rms_norm"}
GLU = {"name": "glu", "d_hidden": 32}
MIXERS = {
    "softmax": {"name": "softmax_attention", "n_heads": 4, "n_kv_heads": 2, "rope_theta": 100.0},
    "window": {"name": "softmax_attention", "n_heads": 2, "rope_theta": 100.0, "window": 4},
    "linear": {"name": "linear_attention", "n_heads": 2, "feature_map": "hedgehog", "rope_theta": 100.0},
    "deltanet": {"name": "deltanet", "n_heads": 2, "chunk": 8},
    "gmlp": {"name": "gmlp", "d_hidden": 16, "length": 20},
    "mlp_mixer": {"name": "mlp_mixer", "token_hidden": 40, "length": 20},
}


def layer(mixer, ffn=GLU, norm=NORM):
    return {"norm": norm, "mixer": mixer, "ffn_norm": norm, "ffn": ffn}


def build(*mixers, **settings):
    """A small float64 model with the named mixers, one per layer."""
    torch.manual_seed(0)
    layers = [layer(MIXERS[name]) for name in mixers]
    return TransformerLM(TransformerConfig(vocab_size=23, d_model=16, layers=layers, **settings)).double().eval()


MIXED = ("softmax", "linear", "deltanet", "window")
GREEDY = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0}


@pytest.mark.parametrize("position", ["pre", "post"])
@pytest.mark.parametrize("tied", [True, False])
def test_forward(position, tied):
    model = build(*MIXED, norm_position=position, final_norm=NORM, tie_word_embeddings=tied)
    ids = torch.randint(23, (2, 11))
    out = model(input_ids=ids, labels=ids)
    assert out.logits.shape == (2, 11, 23)
    assert out.past_key_values is None
    want = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(out.loss, want.float())
    assert (model.lm_head.weight is model.embed_tokens.weight) == tied
    torch.testing.assert_close(model(input_ids=ids, logits_to_keep=1).logits, out.logits[:, -1:])


@torch.no_grad()
def test_a_layer_is_its_equation():
    for position in ("pre", "post"):
        model = build("softmax", norm_position=position)
        block, x = model.layers[0], torch.randn(1, 5, 16, dtype=torch.float64)
        block.ffn_norm.weight.mul_(2)
        if position == "pre":
            h = x + block.mixer(block.norm(x))[0]
            want = h + block.ffn(block.ffn_norm(h))
        else:
            h = block.norm(x + block.mixer(x)[0])
            want = block.ffn_norm(h + block.ffn(h))
        torch.testing.assert_close(model(inputs_embeds=x).logits, want @ model.lm_head.weight.T)


@torch.no_grad()
@pytest.mark.parametrize("position", ["pre", "post"])
def test_a_macaron_layer_is_its_equation(position):
    specs = {**layer(MIXERS["softmax"]), "first": {"norm": NORM, "ffn": GLU}}
    specs["residual"] = {"mixer": [1.0, 1.0], "ffn": [1.0, 0.5]}
    torch.manual_seed(0)
    config = TransformerConfig(vocab_size=23, d_model=16, layers=[specs], norm_position=position)
    model = TransformerLM(config).double().eval()
    block, x = model.layers[0], torch.randn(1, 5, 16, dtype=torch.float64)
    assert block.first_ffn is not block.ffn
    for factor, norm in ((2, block.ffn_norm), (3, block.first_norm), (5, block.norm)):
        norm.weight.mul_(factor)
    if position == "pre":
        h = x + block.first_ffn(block.first_norm(x)) / 2
        h = h + block.mixer(block.norm(h))[0]
        want = h + block.ffn(block.ffn_norm(h)) / 2
    else:
        h = block.first_norm(x + block.first_ffn(x) / 2)
        h = block.norm(h + block.mixer(h)[0])
        want = block.ffn_norm(h + block.ffn(h) / 2)
    torch.testing.assert_close(model(inputs_embeds=x).logits, want @ model.lm_head.weight.T)


@torch.no_grad()
def test_loops_run_the_same_layers_and_add_the_input_at_every_turn():
    model = build("softmax", "deltanet", loops=3, embed_scale=4.0)
    ids = torch.randint(23, (2, 5))
    embedded = 4 * model.embed_tokens(ids)
    x = torch.zeros_like(embedded)
    for _ in range(3):
        x = x + embedded
        for block in model.layers:
            x, _ = block(x, None, None)
    torch.testing.assert_close(model(input_ids=ids).logits, x @ model.lm_head.weight.T)
    assert model.embed_scale.requires_grad
    assert sum(p.numel() for p in model.parameters()) == 1 + sum(
        p.numel() for p in build("softmax", "deltanet").parameters()
    )


@torch.no_grad()
def test_a_looped_model_continues_from_a_cache_of_every_turn(tmp_path):
    model = build("softmax", "deltanet", loops=3, embed_scale=4.0)
    ids = torch.randint(1, 23, (3, 7))
    first = model(input_ids=ids[:, :4], use_cache=True)
    assert len(first.past_key_values.layers) == 6
    second = model(input_ids=ids[:, 4:], past_key_values=first.past_key_values)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), model(input_ids=ids).logits)
    model.float().save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.loops == 3
    torch.testing.assert_close(again(input_ids=ids).logits, model(input_ids=ids).logits)


def test_learns_a_sequence_in_twenty_steps():
    model = build(*MIXED, final_norm=NORM).float().train()
    ids = torch.arange(20).repeat(4, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2, losses


@torch.no_grad()
@pytest.mark.parametrize("mixers", [MIXED, *[(name,) for name in MIXERS]])
def test_generate_with_cache_equals_without(mixers):
    model = build(*mixers)
    ids = torch.randint(1, 23, (3, 7))
    cached = model.generate(ids, **GREEDY, output_logits=True, return_dict_in_generate=True)
    whole = model.generate(ids, **GREEDY, use_cache=False, output_logits=True, return_dict_in_generate=True)
    assert cached.sequences.shape == (3, 16)
    assert torch.equal(cached.sequences, whole.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(whole.logits), atol=1e-9, rtol=0)
    assert cached.past_key_values.get_seq_length() == 15
    assert whole.past_key_values is None


@torch.no_grad()
@pytest.mark.parametrize("mixers", [MIXED, ("gmlp", "mlp_mixer")])
def test_left_padded_prompts_continue_as_if_alone(mixers):
    model = build(*mixers)
    ids = torch.randint(1, 23, (2, 8))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    ids[0, :3] = 0
    together = model.generate(ids, attention_mask=mask, **GREEDY)
    alone = model.generate(ids[:1, 3:], **GREEDY)
    assert torch.equal(together[:1, 8:], alone[:, 5:])


@torch.no_grad()
def test_beam_search_with_cache_equals_without():
    model = build(*MIXED)
    ids = torch.randint(1, 23, (2, 5))
    cached = model.generate(ids, **GREEDY, num_beams=3)
    assert torch.equal(cached, model.generate(ids, **GREEDY, num_beams=3, use_cache=False))


@torch.no_grad()
def test_a_returned_cache_continues():
    model = build(*MIXED)
    ids = torch.randint(1, 23, (2, 12))
    first = model(input_ids=ids[:, :5], use_cache=True)
    second = model(input_ids=ids[:, 5:], past_key_values=first.past_key_values)
    whole = model(input_ids=ids).logits
    torch.testing.assert_close(torch.cat((first.logits, second.logits), 1), whole, atol=1e-9, rtol=0)


@torch.no_grad()
def test_reload_gives_the_same_logits(tmp_path):
    for tied in (True, False):
        model = build(*MIXED, final_norm=NORM, tie_word_embeddings=tied).float()
        folder = tmp_path / str(tied)
        model.save_pretrained(folder)
        again = AutoModelForCausalLM.from_pretrained(folder)
        assert type(again) is TransformerLM
        assert again.config.layers == model.config.layers
        ids = torch.randint(1, 23, (2, 12))
        torch.testing.assert_close(again(input_ids=ids).logits, model(input_ids=ids).logits, atol=0, rtol=0)


def print_logits(folder, ids):
    model = AutoModelForCausalLM.from_pretrained(folder)
    sys.stdout.write(f"{model(input_ids=torch.tensor(ids)).logits.double().sum().item()}\n")


def test_reloads_in_a_fresh_process(tmp_path):
    model = build("deltanet", "window").float()
    model.save_pretrained(tmp_path)
    ids = [[1, 2, 3, 4]]
    status, said = forked.run(print_logits, str(tmp_path), ids)
    assert status == 0, said
    want = model(input_ids=torch.tensor(ids)).logits.double().sum().item()
    assert abs(float(said.split()[-1]) - want) < 1e-5


def test_operators_keep_their_own_initial_weights():
    """transformers draws the linear maps of a new model anew; ours come from the operators' constructors."""
    model = build("linear")
    eye = torch.eye(8, dtype=torch.float64).expand(2, 8, 8)
    assert torch.equal(model.layers[0].mixer.phi_q.weight, eye)
    bound = 1 / 4  # nn.Linear draws uniformly from +-1 / sqrt(d_in)
    assert 0.9 * bound < model.layers[0].ffn.up.weight.abs().max() <= bound


def test_auxiliary_losses_join_the_loss_in_training_only():
    torch.manual_seed(0)
    moe = {"name": "sigma_moe", "n_experts": 4, "d_expert": 8, "k": 2}
    config = TransformerConfig(vocab_size=23, d_model=16, layers=2 * [layer(MIXERS["softmax"], ffn=moe)])
    model = TransformerLM(config)
    ids = torch.randint(23, (2, 9))
    loss = model.train()(input_ids=ids, labels=ids).loss
    aux = aux_losses(model)
    assert len({path.split(".")[1] for path in aux}) == 2
    assert all(value != 0 for value in aux.values())
    plain = model.eval()(input_ids=ids, labels=ids).loss
    torch.testing.assert_close(loss, plain + sum(aux.values()))


# ---- refusals ----


def config(**changes):
    spec = {**layer(MIXERS["softmax"]), **changes}
    return TransformerConfig(vocab_size=23, d_model=16, layers=[spec])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mixer": {"name": "softmax_attention", "n_heads": 2, "causal": False}}, "layer 0.*not causal"),
        ({"mixer": {"name": "glu", "d_hidden": 4}}, "Layer 0 .*family 'ffn' and cannot be the mixer,"),
        ({"ffn": {"name": "glu", "d_hidden": 4, "d_model": 8}}, "d_model=8, the model has 16"),
        ({"ffn": {"name": "glue", "d_hidden": 4}}, "no part 'glue'"),
        ({"ffn": {"name": "glu", "hidden": 4}}, "does not take this configuration"),
    ],
)
def test_specs_that_do_not_fit_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        TransformerLM(config(**changes))


def test_malformed_configs_are_refused():
    with pytest.raises(ValueError, match="Layer 0 of the config has the sublayers"):
        config(attention={})
    with pytest.raises(ValueError, match="Did you mean 'post'"):
        TransformerConfig(norm_position="postt")
    with pytest.raises(ValueError, match="at least once"):
        TransformerConfig(loops=0)
    with pytest.raises(ValueError, match="needs norm and ffn"):
        config(first={"ffn": GLU})


def test_inputs_that_do_not_fit_are_refused():
    model = build("softmax")
    ids = torch.randint(23, (2, 4))
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()
    with pytest.raises(ValueError, match="logits of all tokens"):
        model(input_ids=ids, labels=ids, logits_to_keep=1)
    with pytest.raises(ValueError, match="cover the 4 tokens given"):
        model(input_ids=ids, attention_mask=torch.ones(2, 3))
    with pytest.raises(ValueError, match="not one that this model returned"):
        model(input_ids=ids, past_key_values=DynamicCache())
    model.without_state = [0]  # no causal mixer without a state is in the catalogue yet
    with pytest.raises(ValueError, match=r"layers \[0\] cannot continue from a state"):
        model(input_ids=ids, use_cache=True)
