"""Sites × methods: one cell per method and layer, shaded, hatched, dotted or outlined as the result says."""

from xml.etree import ElementTree

from layersmith.report import facts, heatmap, units
from layersmith.report.reading import built_at, place

from .results import make_result


def elements(result):
    root = ElementTree.fromstring(f"<div>{heatmap.draw(result)}</div>")
    return [e.get("class").split() for e in root.iter() if e.get("class")]


def cells(result):
    """(role, method, layer) -> candidates."""
    grouped = {}
    for c in result["candidates"]:
        at = place(built_at(c))
        grouped.setdefault((at.role, c["method"], at.layer), []).append(c)
    return grouped


def test_one_cell_per_method_and_layer():
    result = make_result()
    found = [c for c in elements(result) if "cell" in c]
    expected = cells(result)
    assert len(found) == len(expected)
    refused = [g for g in expected.values() if all(c["refused"] for c in g)]
    hatched = [g for g in expected.values() if all(c["divergence"] is None for c in g) and g not in refused]
    assert sum("refused" in c for c in found) == len(refused) > 0
    assert sum("hatched" in c for c in found) == len(hatched) > 0


def test_a_figure_that_rests_on_less_text_says_so_and_no_other_does():
    result = make_result()
    looked, scored = [c for c in result["candidates"] if c["divergence"] is not None][:2]
    looked["scored_on"], scored["scored_on"] = 0.125, 1.0
    page = str(heatmap.draw(result))
    assert page.count("of the data") == 1
    assert f"on {units.percent(0.125)} of the data" in page
    assert "1\u00a0candidate had no more than a first look" in str(facts.refused(result))
    looked["scored_on"] = 1.0
    assert "first look" not in str(facts.refused(result))
    entry = next(u for u in result["uniform"] if u["measured"])
    entry["measured"]["measured_on"] = 0.25
    assert str(facts.table_of_uniform(result)).count("of the data") == 1


def test_chosen_candidates_are_outlined():
    result = make_result()
    assert sum("picked" in c for c in elements(result)) == len(result["chosen"]["candidates"]) + 1  # legend


def test_the_least_divergence_of_the_settings_decides_the_shade():
    edges = heatmap.shade_edges([0.2, 1e-5])
    assert len(edges) == heatmap.SHADES - 1
    assert edges == sorted(edges)
    result = make_result()
    kl = {"layers.1.ffn/width/keep=0.75": 0.2, "layers.1.ffn/width/keep=0.5": 1e-9}
    result["candidates"] = [{**c, "divergence": kl[c["id"]]} for c in result["candidates"] if c["id"] in kl]
    result["chosen"]["choice"], result["chosen"]["candidates"] = {}, []
    (shaded,) = [c for c in elements(result) if "cell" in c]
    assert "q0" in shaded


def one_cell(chosen, kls):
    """What stands in the only cell of a result with two settings, the mild one first, and one of them chosen."""
    result = make_result()
    settings = ("layers.1.ffn/width/keep=0.75", "layers.1.ffn/width/keep=0.5")
    kl = dict(zip(settings, kls, strict=True))
    result["candidates"] = [{**c, "divergence": kl[c["id"]]} for c in result["candidates"] if c["id"] in kl]
    picked = {"layers.1.ffn": settings[chosen]} if chosen is not None else {}
    result["chosen"]["choice"], result["chosen"]["candidates"] = picked, list(picked.values())
    root = ElementTree.fromstring(f"<div>{heatmap.draw(result)}</div>")
    (cell,) = [e for e in root.iter("td") if "cell" in e.get("class", "")]
    return cell.get("class").split()[1:], cell.text


def test_an_outlined_cell_shows_the_number_and_the_shade_of_what_was_chosen():
    kls = (0.0003, 0.0172)
    (mild, *rest), number = one_cell(0, kls)
    assert number.startswith("0.0003")
    assert rest == ["picked"]
    (rough, *rest), number = one_cell(1, kls)
    assert number == "0.017"
    assert rest == ["picked"]
    assert rough != mild
    assert (kept := one_cell(None, kls))[0] == [mild]
    assert kept[1].startswith("0.0003")


def test_a_chosen_setting_without_a_score_borrows_none_from_its_neighbour():
    classes, number = one_cell(1, (0.0003, None))
    assert classes == ["hatched", "picked"]
    assert number is None


def test_a_cell_stands_in_the_row_of_its_method_and_the_column_of_its_layer():
    result = make_result(layers=4)
    for table in ElementTree.fromstring(f"<div>{heatmap.draw(result)}</div>").iter("table"):
        layers = [head.find("span").text for head in table.findall("thead/tr/th")]
        assert layers == ["0", "1", "2", "3"]
        for row in table.findall("tbody/tr"):
            method, *cells = row
            for layer, cell in zip(layers, cells, strict=True):
                site, first, *_ = cell.get("data-tip").split("\n")
                assert site.startswith(f"layers.{layer}")
                assert first.split(":")[0].split()[0] == method.text


def test_shades_cover_the_largest_value():
    for top in (1e-6, 0.03, 0.9, 1.0, 40.0):
        edges = heatmap.shade_edges([top])
        assert edges[-1] <= top <= 10 * edges[-1]
    assert len(heatmap.shade_edges([])) == heatmap.SHADES - 1


def test_deep_models_keep_every_layer():
    result = make_result(layers=80)
    assert len([c for c in elements(result) if "cell" in c]) == len(cells(result))


def test_nothing_to_draw():
    assert heatmap.draw({}) is None
