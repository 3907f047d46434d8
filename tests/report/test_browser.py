"""The report in a real browser: no complaint in its console, every mark drawn, nothing wider than the window.

Needs Chromium with its driver (Debian: chromium, chromium-driver) and selenium; skipped, and said so, without them.
"""

import json
import shutil
import time

import pytest

from layersmith import report

from .results import make_result

selenium = pytest.importorskip("selenium", reason="selenium is not installed (pip install '.[dev]')")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)
RESULTS = {
    "small": {},
    "deep": {"layers": 80},
    "encoder": {"layers": 6, "encoder": True, "heal": "none"},
    "missed": {"met": False, "heal": "rolled_back"},
}

#: Pixels of Letter or A4, whichever is less, within margins of 14 mm.
SHEET = (688, 930)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="no Chromium: the report was not opened in a browser (install chromium and chromium-driver)",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All reports as files, and the folder that downloads go to."""
    folder = tmp_path_factory.mktemp("reports")
    for name, kind in RESULTS.items():
        report.write(make_result(**kind), folder / f"{name}.html")
    report.write({}, folder / "empty.html")
    report.write_svg(make_result(), folder / "pareto.svg")
    return folder


@pytest.fixture(scope="module")
def browser(folder, tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(folder / "downloads")})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def show(browser, path, width=1280):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(path.as_uri())


def reach(browser, selector):
    """The first such element, scrolled to the middle of the window."""
    element = browser.find_element(By.CSS_SELECTOR, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    return element


def point_at(browser, selector):
    ActionChains(browser).move_to_element(reach(browser, selector)).perform()


def point_at_until(browser, selector, holds):
    """Point at the element until that holds; a timeout fails the test."""

    def tried(_):
        point_at(browser, selector)
        ActionChains(browser).move_by_offset(1, 0).perform()
        return holds()

    WebDriverWait(browser, 10).until(tried)


def count(browser, selector):
    return len(browser.find_elements(By.CSS_SELECTOR, selector))


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", [*RESULTS, "empty"])
def test_no_complaints_and_no_horizontal_overflow(browser, folder, name, width):
    show(browser, folder / f"{name}.html", width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    # Wide charts and tables scroll inside their own frames; nothing else may reach beyond the window's edge.
    outside = browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
        " && !e.closest('.scroll, figure')).map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []
    assert browser.get_log("browser") == []


def test_charts_hold_the_expected_marks(browser, folder):
    result = make_result()
    show(browser, folder / "small.html")
    assert count(browser, "#pareto .uniform[data-tip]") == 2 * sum(u["measured"] is not None for u in result["uniform"])
    assert count(browser, "#pareto .predicted[data-tip]") == len(result["front"])
    assert count(browser, "#pareto .ring[data-tip]") == 2
    assert count(browser, "#layout .slot[data-tip] .bar:not(.changed)") == list(
        result["chosen"]["choice"].values()
    ).count("keep")
    assert count(browser, "#swaps .picked") == len(result["chosen"]["candidates"]) + 1
    assert count(browser, "#floors .floor[data-tip]") == 4 * len(result["sites"])
    assert count(browser, "#healing .mark") == len(result["heal"]["curve"])
    assert count(browser, "#samples .sample") == 2
    assert count(browser, "#time tr") == 6
    assert count(browser, "nav a") == count(browser, "main > section")


def test_hatching_is_really_painted(browser, folder):
    show(browser, folder / "small.html")
    painted = "return getComputedStyle(document.querySelector('#swaps .cell.hatched')).backgroundImage"
    assert "repeating-linear-gradient" in browser.execute_script(painted)


@pytest.mark.parametrize("name", RESULTS)
def test_names_and_axes_in_charts_cover_one_another_nowhere(browser, folder, name):
    """In the browser's own font, which is not the one that matplotlib measured with."""
    show(browser, folder / f"{name}.html")
    covered = browser.execute_script(
        "const inside = (a, b) => Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x) > 1 && "
        "Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y) > 3;"
        "return [...document.querySelectorAll('svg.chart')].flatMap(svg => {"
        "  const texts = [...svg.querySelectorAll('text')].map(e => [e.textContent, e.getBBox()]);"
        "  return texts.flatMap(([s, a], i) => texts.slice(i + 1).filter(([, b]) => inside(a, b))"
        "    .map(([t]) => [s, t]));"
        "})"
    )
    assert covered == []
    outside = browser.execute_script(
        "return [...document.querySelectorAll('svg.chart text')].filter(e => { const a = e.getBBox(), "
        "b = e.ownerSVGElement.viewBox.baseVal; return a.x < -1 || a.y < -1 || a.x + a.width > b.width + 1 || "
        "a.y + a.height > b.height + 1 }).map(e => e.textContent)"
    )
    assert outside == []


def test_words_on_a_bar_are_readable_on_it_and_beside_it(browser, folder):
    """A changed bar repeats what is written under it in its own colour, at the very same place."""
    show(browser, folder / "small.html")
    shown = browser.execute_script(
        "return [...document.querySelectorAll('#layout .slot.changed')].filter(e => e.querySelector('.bar')).map(e => {"
        "const bar = e.querySelector('.bar'), over = getComputedStyle(bar, '::after'), under = e.querySelector('span');"
        "return [over.content === JSON.stringify(under.textContent), over.paddingLeft === getComputedStyle(under)"
        ".paddingLeft, bar.getBoundingClientRect().left === under.getBoundingClientRect().left]})"
    )
    assert shown
    assert all(map(all, shown))


def test_tooltip_follows_the_pointer_and_stays_inside(browser, folder):
    show(browser, folder / "small.html")
    tip = browser.find_element(By.ID, "tip")
    # Scrolling to the mark sends an event, which hides the tip, and it may come after the pointer's.
    point_at_until(browser, "#pareto .original[data-tip]", tip.is_displayed)
    assert tip.text.splitlines()[:2] == ["original", "1.00× latency"]
    assert tip.rect["x"] + tip.rect["width"] <= 1280
    point_at_until(browser, "#pareto h2", lambda: not tip.is_displayed())


def test_pointing_at_a_legend_entry_singles_out_its_series(browser, folder):
    show(browser, folder / "small.html")
    point_at(browser, "#pareto .legend[data-series='width']")
    assert count(browser, "#pareto svg.focus") == 1
    lit = browser.execute_script("return [...document.querySelectorAll('.lit')].map(e => e.dataset.series)")
    assert set(lit) == {"width"}


def test_the_result_can_be_downloaded(browser, folder):
    show(browser, folder / "small.html")
    reach(browser, "#download").click()
    path = folder / "downloads" / "result.json"
    for _ in range(100):
        if path.exists():
            break
        time.sleep(0.1)
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(make_result()))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes(browser, folder, scheme):
    """WCAG contrast of the page's text colours on its background: at least 4.5."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    show(browser, folder / "small.html")
    colours = browser.execute_script(
        "const css = getComputedStyle(document.documentElement);"
        "return Object.fromEntries(['paper', 'ink', 'soft', 'accent', 'bar', 'on-bar', 'c0', 'c1', 'c2', 'c3', 'c4']"
        ".map(n => [n, css.getPropertyValue('--' + n).trim()]))"
    )
    for name in ("ink", "soft", "accent", "c0", "c1", "c2", "c3"):
        assert contrast(colours[name], colours["paper"]) >= 4.5, name
    assert contrast(colours["on-bar"], colours["bar"]) >= 4.5
    assert (luminance(colours["paper"]) < 0.1) == (scheme == "dark")


@pytest.mark.parametrize("name", RESULTS)
def test_on_paper_everything_is_there_and_untinted(browser, folder, name):
    """A sheet of A4 or Letter with its margins, printed by someone whose screen is dark."""
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": dark})
    try:
        show(browser, folder / f"{name}.html", width=SHEET[0])
        cut = browser.execute_script(
            "return [...document.querySelectorAll('main *')].filter(e => !e.closest('details:not([open])') && "
            "(e.getBoundingClientRect().right > innerWidth + 1 || "
            "['auto', 'scroll'].includes(getComputedStyle(e).overflowX))).map(e => e.outerHTML.slice(0, 80))"
        )
        assert cut == []
        charts = browser.execute_script(
            "return [...document.querySelectorAll('svg.chart')].map(e => e.getBoundingClientRect().height)"
        )
        assert 0 < max(charts) <= SHEET[1]
        paper = "return getComputedStyle(arguments[0]).backgroundColor"
        assert browser.execute_script(paper, browser.find_element(By.TAG_NAME, "body")) == "rgb(255, 255, 255)"
        ink = "return getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()"
        assert luminance(browser.execute_script(ink)) < 0.1
        final = browser.find_element(By.CSS_SELECTOR, "table.summary td.final")
        assert browser.execute_script(paper, final) == "rgba(0, 0, 0, 0)"
        assert browser.find_element(By.CSS_SELECTOR, "dl.glossary dd").rect["height"] > 0
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_chart_alone_opens_as_a_picture(browser, folder):
    show(browser, folder / "pareto.svg", 1000)
    assert browser.execute_script("return document.documentElement.tagName") == "svg"
    assert count(browser, ".mark") > 20
    assert browser.get_log("browser") == []
