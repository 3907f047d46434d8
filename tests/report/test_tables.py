"""The summary table and the plain facts."""

from xml.etree import ElementTree

from layersmith.report import additivity, facts, floors, healing, tables

from .results import make_result


def rows(drawn):
    root = ElementTree.fromstring(f"<div>{drawn}</div>")
    return [[" ".join("".join(cell.itertext()).split()) for cell in row] for row in root.iter("tr")]


def test_summary_puts_the_models_side_by_side():
    table = rows(tables.summary(make_result()))
    assert [c[:8] for c in table[0]] == ["measured", "original", "refitted", "refitted", "best uni", "best uni"]
    by_name = {row[0]: row[1:] for row in table[1:]}
    assert by_name["divergence from the originalnats per token"][:3] == ["0", "0.021", "0.055"]
    assert by_name["latencybudget 0.75×"][1].startswith("0.74×")
    assert "cosine distance" not in by_name


def test_summary_of_an_encoder_has_no_token_rows():
    names = [row[0] for row in rows(tables.summary(make_result(encoder=True, heal="none")))]
    assert "divergence from the originalrelative squared error" in names
    assert not {"perplexity", "bits per byte", "predictions that agree", "KV-cache bytes"} & set(names)


def test_summary_shows_one_refitted_model_after_a_roll_back():
    head = rows(tables.summary(make_result(heal="rolled_back")))[0]
    assert sum(cell.startswith("refitted") for cell in head) == 1


def test_refusals_are_grouped_by_method_and_reason():
    result = make_result()
    said = facts.refused(result)
    assert said.count("it has no experts to keep") == 1
    assert "8\u00a0sites" in said
    missed = sum(u["meets_budget"] is False for u in result["uniform"])
    assert f"{missed}\u00a0single-method model" in said
    assert "low_rank mixer (latency 0.931×)" in said
    assert facts.refused({}) is None


def test_timings_are_shares_of_the_total():
    result = make_result()
    table = {row[0]: row[2:] for row in rows(facts.timings(result))}
    assert table["heal"] == ["1 min 28 s", "36 %"]
    assert "1.42\u00a0GB" in facts.timings(result)
    assert facts.timings({}) is None


def test_uniform_models_are_listed_best_first():
    result = make_result()
    table = rows(facts.table_of_uniform(result))
    assert len(table) == len(result["uniform"]) + 1
    divergences = [float(row[3]) for row in table[1:-1]]
    assert divergences == sorted(divergences)
    assert table[-1][:4] == ["low_rank mixer rank=8", "0.93×", "no", "–"]


def test_conditions_hold_every_setting():
    said = facts.conditions(make_result())
    for part in ("prefill=1x512", "2.13.0", "latency 0.75", "32\u202f768", "Example CPU"):
        assert part in said


def test_floors_have_a_panel_per_kind_and_a_row_per_site():
    result = make_result()
    assert floors.draw(result).count("panel-title") == 5
    assert len(rows(floors.table(result))) == len(result["sites"]) + 1
    assert floors.draw({}) is None
    assert floors.table({}) is None


def test_floors_by_local_error_where_they_were_not_scored():
    result = make_result()
    for site in result["sites"]:
        for floor in site["floors"].values():
            floor["divergence"] = None
    assert "local error, log scale" in floors.draw(result)


def test_predictions_are_listed_beside_measurements():
    result = make_result()
    table = rows(additivity.table(result))
    assert table[-1] == ["chosen, before healing", "0.047", "0.055", "+17 %", "0.74×", "0.74×", "−1 %"]
    assert len(table) == len(result["front"]) + 2
    assert additivity.draw({}) is None


def test_healing_says_what_was_kept():
    assert "kept: step 300" in healing.draw(make_result())
    assert "rolled back to the unhealed model, divergence 0.061" in healing.draw(make_result(heal="rolled_back"))
    assert healing.draw(make_result(heal="none")) is None
    assert healing.draw({}) is None


def test_milliseconds_of_different_timing_runs_are_not_set_side_by_side():
    latency = next(row for row in rows(tables.summary(make_result())) if row[0].startswith("latency"))
    spread = ["quartiles 29.7 to 31.2 ms", "quartiles 21.7 to 23.3 ms"]
    assert latency[1:] == [f"1.00×30.3 ms{spread[0]}", f"0.74×22.4 ms{spread[1]}", "0.74×", *latency[4:]]
    assert not any("ms" in cell for cell in latency[3:])


def test_a_spread_that_is_not_known_is_not_drawn():
    result = make_result()
    result["baseline"]["latency_ms_spread"], result["chosen"]["measured"]["latency_ms_spread"] = [1.0, None], None
    assert "quartiles" not in tables.summary(result)


def test_a_missed_budget_has_digits_enough_in_the_summary():
    result = make_result(met=False)
    result["settings"]["budget"] = {"latency": 0.6}
    result["chosen"]["measured"]["latency_ratio"] = 0.6004
    (latency,) = [row for row in rows(tables.summary(result)) if row[0] == "latencybudget 0.60×"]
    assert latency[2].startswith("0.6004×")


def test_a_baseline_that_misses_another_budget_is_listed_with_its_reach():
    result = make_result()
    result["settings"]["budget"] = {"latency": 0.75, "bytes": 0.5}
    result["uniform"][-1]["reach"] = {"bytes": 0.50004}
    assert rows(facts.table_of_uniform(result))[-1][1:3] == ["–", "no, at best bytes 0.50004×"]
    assert "low_rank mixer (bytes 0.50004×)" in facts.refused(result)
