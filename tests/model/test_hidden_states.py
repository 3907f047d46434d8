"""Hidden states of the reference transformer: what enters every layer, and what the head reads."""

import torch

from tests.model.test_transformer import GREEDY, MIXED, NORM, build


@torch.no_grad()
def test_hidden_states_are_what_enters_every_layer_and_what_the_head_reads():
    model = build(*MIXED, final_norm=NORM)
    model.final_norm.weight.mul_(2)
    ids = torch.randint(1, 23, (2, 11))  # 0 is padding to `generate`
    assert model(input_ids=ids).hidden_states is None
    out = model(input_ids=ids, output_hidden_states=True)
    assert len(out.hidden_states) == len(MIXED) + 1
    x = model.embed_tokens(ids)
    for layer, seen in zip(model.layers, out.hidden_states, strict=False):
        torch.testing.assert_close(seen, x)
        x = layer(x, None, None)[0]
    torch.testing.assert_close(out.hidden_states[-1], model.final_norm(x))
    torch.testing.assert_close(out.hidden_states[-1] @ model.lm_head.weight.T, out.logits)

    model.config.output_hidden_states = True
    said = model.generate(ids[:1], output_hidden_states=True, return_dict_in_generate=True, **GREEDY)
    whole = model(input_ids=said.sequences[:, :-1], return_dict=False)[-1]
    for depth, states in enumerate(whole):  # the prompt at once, then a token at a time
        torch.testing.assert_close(torch.cat([step[depth] for step in said.hidden_states], dim=1), states)
    assert model(input_ids=ids, output_hidden_states=False).hidden_states is None


@torch.no_grad()
def test_a_looped_model_has_hidden_states_of_every_run():
    model = build("softmax", "linear", loops=3, order=[0, 1, 1])
    states = model(input_ids=torch.randint(23, (1, 5)), output_hidden_states=True).hidden_states
    assert len(states) == 3 * 3 + 1
    torch.testing.assert_close(model.layers[1](states[1], None, None)[0], states[2])
    torch.testing.assert_close(model.layers[0](states[3], None, None)[0], states[4])
