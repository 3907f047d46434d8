import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from layersmith.measuring.generation import agreement, continuations, greedy_text


def _prompts() -> torch.Tensor:
    return torch.randint(1, 63, (2, 6), generator=torch.Generator().manual_seed(0))


def test_the_continuation_is_the_argmax_token_by_token(tiny: nn.Module) -> None:
    prompts = _prompts()
    written = continuations(tiny, prompts, tokens=8)
    ids = prompts
    with torch.no_grad():
        for _ in range(8):
            scores = tiny(ids).logits[:, -1]
            scores[:, tiny.config.eos_token_id] = -torch.inf  # end-of-text may not stop it
            ids = torch.cat([ids, scores.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(written, ids[:, 6:])


SETTINGS = [
    {"do_sample": True, "temperature": 2.0, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1},
    {"cache_implementation": "quantized"},
    {"cache_implementation": "static"},
    {"stop_strings": ["a"]},
    {"prompt_lookup_num_tokens": 3},
    {"suppress_tokens": list(range(1, 64))},
    {"num_beams": 4, "num_return_sequences": 3},
    {"return_dict_in_generate": True, "output_scores": True},
    {"guidance_scale": 3.0, "bad_words_ids": [[5], [6]], "max_length": 2, "max_time": 0.0},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: ",".join(settings))
def test_a_models_own_settings_change_nothing(tiny: nn.Module, settings: dict[str, Any]) -> None:
    """Nor do they need packages or arguments that are not there; and they are the model's own again afterwards."""
    expected = continuations(tiny, _prompts(), tokens=8)
    tiny.generation_config.update(**settings)
    own = tiny.generation_config
    assert torch.equal(continuations(tiny, _prompts(), tokens=8), expected)
    assert tiny.generation_config is own
    assert all(getattr(own, name) == value for name, value in settings.items())


def test_agreement_is_the_share_of_equal_tokens(tiny: nn.Module, other: nn.Module) -> None:
    ours, copied = continuations(tiny, _prompts(), 8), continuations(copy.deepcopy(tiny), _prompts(), 8)
    assert agreement(ours, copied) == 1.0
    assert agreement(ours, continuations(other, _prompts(), 8)) < 1.0
    assert agreement(torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 0, 3, 0]])) == 0.5


def test_greedy_text_is_the_continuation_decoded(tiny: nn.Module, tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = _prompts()[0]
    expected = tokenizer.decode(continuations(tiny, prompt[None], 8)[0])
    assert greedy_text(tiny, tokenizer, prompt, 8) == expected


@pytest.mark.parametrize(("limit", "expected"), [(None, (32, 48)), (80, (32, 48)), (64, (32, 32)), (20, (10, 10))])
def test_prompt_and_continuation_fit_into_the_context(monkeypatch, limit, expected):
    from layersmith.measuring import generation

    monkeypatch.setattr(generation, "longest_input", lambda model: limit)
    assert generation.room(None, 32, 48) == expected
