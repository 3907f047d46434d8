"""The proof of an export fails for a file that computes something else."""

import pytest

from layersmith.errors import UserError
from layersmith.exporting.proof import check_equal, divergences, timed
from layersmith.measuring.shape import parse_shape
from tests.exporting.models import llama


@pytest.fixture(scope="module")
def model():
    return llama().requires_grad_(False)


def runner(model, change=lambda logits, inputs: logits, keep=lambda inputs: inputs):
    return lambda inputs: {"logits": change(model(**keep(inputs)).logits.clone(), inputs)}


def test_the_model_itself_passes_with_no_difference(model):
    found = check_equal(model, runner(model), rounds=False)
    assert found["max_abs_diff"] == 0
    assert [2, 19] not in found["shapes"], "that is the traced one"
    assert len({tuple(shape) for shape in found["shapes"]}) == 4


def test_one_wrong_logit_is_found(model):
    def spoil(logits, inputs):
        logits[-1, 2, 5] += 0.01
        return logits

    with pytest.raises(UserError, match="differ from the model"):
        check_equal(model, runner(model, spoil), rounds=False)
    found = check_equal(model, runner(model, spoil), rounds=True)
    assert found["max_abs_diff"] == pytest.approx(0.01, rel=0.1)


def test_nan_is_found(model):
    with pytest.raises(UserError):
        check_equal(model, runner(model, lambda logits, inputs: logits * float("nan")), rounds=False)


def test_a_graph_that_ignores_the_mask_of_leading_padding_is_found(model):
    """Padding at the end does not reach real tokens of a causal model: an encoder's does."""
    from tests.exporting.models import bert

    encoder = bert().requires_grad_(False)
    blind = lambda inputs: {"last_hidden_state": encoder(inputs["input_ids"]).last_hidden_state}  # noqa: E731
    with pytest.raises(UserError, match="differ from the model"):
        check_equal(encoder, blind, rounds=False)


def test_a_graph_of_one_shape_is_found(model):
    def fixed(inputs):
        if inputs["input_ids"].shape != (2, 19):
            raise RuntimeError("invalid dimensions")
        return {"logits": model(**inputs).logits}

    with pytest.raises(UserError, match="another size than the traced"):
        check_equal(model, fixed, rounds=False)


def test_the_distance_is_zero_for_the_model_and_not_for_another(model):
    other = runner(model, lambda logits, inputs: logits * 1.5)
    found = divergences(model, None, {"same": runner(model), "other": other}, "stdlib", seed=0)
    assert found["data"] == "random"
    assert found["kind"] == "kl"
    assert found["of"]["same"] == pytest.approx(0, abs=1e-6)
    assert found["of"]["other"] > 1e-4


def test_every_way_to_run_the_file_is_timed_beside_the_model(model):
    found = timed(model, {"again": runner(model)}, parse_shape("prefill=1x8"), rounds=2, seed=0)
    assert list(found) == ["model", "again"]
    assert found["model"]["latency_ratio"] == 1
    assert found["again"]["latency_ms"] > 0


def test_an_output_of_another_shape_is_found(model):
    with pytest.raises(UserError, match="the shape"):
        check_equal(model, runner(model, lambda logits, inputs: logits[:, :5]), rounds=False)
