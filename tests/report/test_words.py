"""The sentences at the top say what the numbers say, also when that is bad news."""

from layersmith.report import words

from .results import make_result


def test_headline():
    assert words.headline(make_result()) == (
        "0.74× the latency of the original at a divergence of 0.021; 96.2\u00a0% of next tokens agree"
    )
    assert words.headline(make_result(encoder=True, heal="none")) == (
        "0.74× the latency of the original at a divergence of 0.055"
    )
    assert words.headline({}) == "This run ended without a refitted model"


def uniform(kl, healed=None, meets=True):
    return {
        "method": "width",
        "label": "width ffn",
        "settings": {"keep": 0.5},
        "measured": {"divergence": kl},
        "healed": healed,
        "meets_budget": meets,
    }


def test_comparison_is_like_with_like():
    result = make_result()
    result["uniform"] = [uniform(0.11)]
    # The chosen model is healed and the baseline is not: both are taken before healing.
    assert words.comparison(result).endswith(
        "where the searched mix has 0.055 (both before healing): 2.0 times as much."
    )
    result["uniform"] = [uniform(0.11, healed={"divergence": 0.063})]
    assert words.comparison(result).endswith(
        "where the searched mix has 0.021 (both healed with the same tokens): 3.0 times as much."
    )


def test_comparison_admits_defeat():
    result = make_result()
    result["uniform"] = [uniform(0.01)]
    assert words.comparison(result).endswith("here the search brought nothing.")


def test_comparison_when_a_side_misses_the_budget():
    result = make_result()
    result["uniform"] = [uniform(0.11, meets=False)]
    assert words.comparison(result) == "No single method meets the budget on its own."
    missed = make_result(met=False)
    missed["uniform"] = [uniform(0.11)]
    assert words.comparison(missed) == "A single method does meet it: width ffn keep=0.5, at a divergence of 0.11."
    missed["uniform"] = []
    assert words.comparison(missed) is None


def test_banners():
    assert words.banners(make_result(), []) == ""
    missed = words.banners(make_result(met=False, heal="rolled_back"), ["result.a"])
    for part in ("latency 0.83× against 0.75×", "latency 0.81×", "Healing was rolled back.", "result.a"):
        assert part in missed
    result = make_result() | {"reload_max_abs_diff": 0.3}
    assert "does not reload exactly" in words.banners(result, [])


def test_best_reachable_may_be_a_number_or_missing():
    result = make_result(met=False)
    result["chosen"]["best_reachable"] = 0.8
    assert "latency 0.80×" in words.banners(result, [])
    del result["chosen"]["best_reachable"]
    assert "best that the offered methods reach" not in words.banners(result, [])


def test_conditions_name_machine_shape_and_tokens():
    said = words.conditions(make_result())
    for part in ("prefill=1x512", "32.8\u00a0k held-out tokens of stdlib"):
        assert part in said
    assert "on Example CPU at 2.60 GHz (avx2, avx512f) with 2\u00a0threads and compiled kernels;" in said
    assert words.conditions({}) == ""


def test_the_machine_is_told_as_far_as_it_is_known():
    result = make_result()
    machine = result["environment"]
    machine["kernels"] = "reference"
    assert "threads and no compiled kernels" in words.conditions(result)
    machine["instruction_sets"] = machine["kernels"] = None
    assert "on Example CPU at 2.60 GHz with 2\u00a0threads;" in words.conditions(result)
    machine["device"], machine["kernels"] = "Example GPU", "compiled"
    assert "on Example GPU;" in words.conditions(result)


def test_what_a_mix_was_searched_for_is_not_what_it_is_predicted_to_cost():
    said = words.aim(make_result())
    assert "here a predicted latency 0.78×, in order to measure latency 0.75×" in said
    result = make_result()
    result["solver"]["effective_budget"] = {"latency": 0.75}
    assert words.aim(result) is None
    assert words.aim({}) is None


def test_baselines_that_are_not_drawn_are_counted():
    result = make_result()
    assert words.unreachable(result).startswith("1\u00a0uniform model cannot meet the budget")
    result["uniform"].pop()
    assert words.unreachable(result) is None


def test_healing_in_words():
    assert words.healed(make_result()) == (
        "300\u00a0steps, 1.31\u00a0M tokens. It stopped early, when the held-out curve no longer fell."
    )
    assert words.healed({}) is None


def test_reload_in_words():
    assert words.reloaded({}) is None
    assert "exactly those measured" in words.reloaded({"reload_max_abs_diff": 0.0, "export": "stock"})
    assert "at most 2·10⁻⁵" in words.reloaded({"reload_max_abs_diff": 2e-5, "export": "stock"})


def test_a_missed_budget_has_digits_enough_to_tell_the_numbers_apart():
    result = make_result(met=False)
    result["settings"]["budget"] = {"latency": 0.6}
    result["chosen"]["measured"]["latency_ratio"] = 0.6004
    result["chosen"]["best_reachable"] = {"latency": 0.6002}
    said = words.banners(result, [])
    assert "latency 0.6004× against 0.6000×" in said
    assert "on this model and machine: latency 0.6002×" in said
    assert words.headline(result).startswith("0.6004× the latency")
