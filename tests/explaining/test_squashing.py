"""What a text leaves of its last token: planted models that see nothing else, derivatives, and who is refused."""

from __future__ import annotations

import math

import pytest
import torch

from layersmith.anatomy import Replay, find_sites
from layersmith.errors import UserError
from layersmith.explaining.pipeline import explain
from layersmith.explaining.readout import Readout
from layersmith.explaining.squashing import Squashing, _compared, _felt, _lengths, derivatives
from tests.explaining.conftest import tiny


class Seen:
    """As much of a subject as a passage needs."""

    device = torch.device("cpu")

    def __init__(self, model: torch.nn.Module):
        self.model = model.requires_grad_(False)
        self.anatomy = find_sites(model)
        self.replay = Replay(model, self.anatomy)
        self.judge = [{"input_ids": passage()[None], "attention_mask": torch.ones(1, 32, dtype=torch.long)}]

    def tell(self, *args: object) -> None:
        pass


def passage(seed: int = 0) -> torch.Tensor:
    return torch.randint(5, 4000, (32,), generator=torch.Generator().manual_seed(seed))


def blind() -> torch.nn.Module:
    """GPT-2 whose attention adds nothing and that knows no places: the last token is all it tells."""
    model = tiny("gpt2")
    with torch.no_grad():
        model.transformer.wpe.weight.zero_()
        for block in model.transformer.h:
            block.attn.c_proj.weight.zero_()
    return model


def test_a_model_that_sees_its_last_token_alone_loses_the_rest() -> None:
    subject = Seen(blind())
    head = Readout(subject)
    for kind in ("text", "repeats"):
        found = _compared(head, [passage(0), passage(1)], 8, kind)
        assert found["distance"] < 1e-6
        assert found["rounded"] > 0.99
        assert found["alike"] == 1
    felt = _felt(subject, head, [passage()], 2)
    assert felt[:-1] == [0.0] * 7
    assert felt[-1] == pytest.approx(1)


def test_the_mean_of_a_text_forgets_one_token_more_and_more() -> None:
    """Attention alone, all scores 0: with the value of one token for all, nothing is left; of two, ever less."""
    model = blind()
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_attn.weight[:, :64].zero_()
            block.attn.c_proj.weight.normal_(generator=torch.Generator().manual_seed(0))
            block.mlp.c_proj.weight.zero_()
    subject = Seen(model)
    head = Readout(subject)
    distances = [_compared(head, [passage()], n, "repeats")["distance"] for n in (4, 16, 31)]
    assert distances[0] > 2 * distances[1] > 2 * distances[2] > 0


def test_a_distance_is_that_of_two_runs() -> None:
    model = tiny("llama")
    subject = Seen(model)
    ids = passage()
    with torch.no_grad():
        one, two = (_last_stream(model, i) for i in (ids[:8], torch.cat((ids[:8], ids[7:8]))))
    found = _compared(Readout(subject), [ids], 8, "text")
    assert found["distance"] == pytest.approx(float((one - two).abs().sum() / one.abs().sum()), rel=1e-4)
    assert found["distance"] > 1e-3
    assert found["rounded"] < 0.5


def _last_stream(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    kept = []
    handle = model.model.layers[-1].register_forward_hook(lambda module, args, output: kept.append(output))
    model(input_ids=ids[None])
    handle.remove()
    last = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
    return last[0, -1]


def test_derivatives_are_those_of_the_whole_jacobian() -> None:
    subject = Seen(tiny("llama"))
    head, ids = Readout(subject), passage()[:9]
    found = derivatives(subject, head, ids, 400, torch.Generator().manual_seed(0))
    entering = subject.replay.block_inputs({"input_ids": ids[None]})[0]

    def last(x: torch.Tensor) -> torch.Tensor:
        for index in range(2):
            x = subject.replay.run_block(index, x, {"input_ids": ids[None]})
        return x[0, -1]

    jacobian = torch.autograd.functional.jacobian(last, entering)[:, 0]
    wanted = jacobian.square().sum((0, 2)).sqrt().double()
    torch.testing.assert_close(found, wanted, rtol=0.2, atol=0)


def test_lengths_double_and_end_one_before_the_longest() -> None:
    assert _lengths(40) == [4, 8, 16, 32, 39]
    assert _lengths(9) == [4, 8]
    assert _lengths(33) == [4, 8, 16, 32]


def test_a_whole_survey_and_its_page(tokenizer, tmp_path) -> None:
    document = explain(
        tiny("llama"), tool="squashing", tokenizer=tokenizer, tokens=256, progress=False, out=tmp_path / "o",
        settings={"passages": 2, "directions": 1},
    )  # fmt: skip
    found = document["survey"]
    assert set(found["text"]) == set(found["repeats"])
    assert all(0 <= one["alike"] <= 1 and one["distance"] > 0 for one in found["text"].values())
    assert math.isclose(sum(found["felt"]), 1)
    assert "One token more" in (tmp_path / "o" / "report.html").read_text()


def test_a_model_that_sees_both_sides_is_refused(tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match="foretells the next token"):
        explain(tiny("bert"), tool="squashing", tokenizer=tokenizer, tokens=256, progress=False, out=tmp_path / "o")


@pytest.mark.parametrize("given", [{"passages": 0}, {"directions": 0}])
def test_settings_that_measure_nothing_are_refused(given: dict) -> None:
    with pytest.raises(UserError, match="must be at least"):
        Squashing().check({**Squashing.settings, **given})
