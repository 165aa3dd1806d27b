"""The page: what stands in it, in text and in a browser."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree

import pytest

from funnelformer.base.errors import UserError
from funnelformer.report.page import render, write_page
from funnelformer.report.runs import read_rows
from report.folders import finetuned, write_run
from training.toy import fails, run

EVIL = "<script>document.title='harmed'</script><img src=x onerror=\"document.title='harmed'\">$x$"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Four runs of one task, of which one has a name that is a script and knows no cost; and one of another task."""
    folder = tmp_path_factory.mktemp("runs")
    evil = {**finetuned(0.9), "model": EVIL, "cost": {}, "num_parameters": None}
    return [
        write_run(folder / "small", metrics=finetuned(0.75, train_seconds=9.0), config={"epochs": 1}),
        write_run(folder / "large", metrics=finetuned(0.5, train_seconds=100.0), config={"epochs": 2}),
        write_run(folder / "seed1", metrics=finetuned(0.25), config={"epochs": 3, "seed": 1}),
        write_run(folder / "seed2", metrics=finetuned(0.5), config={"epochs": 3, "seed": 2}),
        write_run(folder / "evil", metrics=evil, config={"epochs": 4, "model": EVIL}),
        write_run(folder / "tags", metrics={**finetuned(0.6), "task": "ner"}, config={"epochs": 5}),
    ]


@pytest.fixture(scope="module")
def page(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "page.html"
    assert run("report", *folders, "--out", out) == 0
    return out


def test_nothing_of_a_run_is_markup(page):
    text = page.read_text()
    assert text.count("<script>") == 1
    assert "<img" not in text
    assert "&lt;script&gt;document.title=&#39;harmed&#39;&lt;/script&gt;" in text
    # No address but the names of XML, which nobody asks for.
    assert set(re.findall(r'\w+://[^"\s]+', text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_the_charts_are_whole_and_in_the_pages_colour(page):
    charts = re.findall(r"<svg .*?</svg>", page.read_text(), flags=re.DOTALL)
    assert len(charts) == 8  # two of cost and two of curves, of two tasks
    for chart in charts:
        ElementTree.fromstring(chart)
        assert "currentColor" in chart
        assert "#000000" not in chart
    words = [
        "".join(element.itertext())
        for element in ElementTree.fromstring(charts[0]).iter()
        if element.tag.endswith("text")
    ]
    # Three rows have a cost, the fourth has none.
    assert {"small", "large", "seconds of training", "dev_accuracy"} <= set(words)
    assert "evil" not in words
    assert "GFLOPs of training" in charts[1]
    assert all(name in charts[2] for name in ("small", "large", "evil"))  # in the legend
    assert not any("$" in word for word in words)  # a logarithmic axis without formulas: 9 and 100 seconds


def test_names_of_points_that_lie_close_do_not_overlap(tmp_path):
    """Three runs as good and as costly as one another: three names that can be read, in both charts."""
    folders = [
        write_run(
            tmp_path / f"a-run-of-some-length-{number}",
            metrics=finetuned(0.75 + number / 1e4, train_seconds=60.0 + number),
            config={"epochs": number},
        )
        for number in range(1, 4)
    ]
    far = finetuned(0.25, train_seconds=900.0, train_flops=9e9)
    folders.append(write_run(tmp_path / "far", metrics=far, config={"epochs": 9}))
    charts = re.findall(r"<svg .*?</svg>", render(read_rows(folders)), flags=re.DOTALL)
    for chart in charts[:2]:
        lines = [
            (float(y), text)
            for y, text in re.findall(r'<text [^>]*y="([\d.]+)"[^>]*>(a-run-of-some-length-\d)</text>', chart)
        ]
        assert len(lines) == 3
        heights = sorted(y for y, _ in lines)
        # They are drawn at 8 points, all beside one place.
        assert all(upper - lower > 8 for lower, upper in itertools.pairwise(heights))


def test_the_label_of_a_chart_is_no_markup(tmp_path):
    folder = write_run(tmp_path / "run", metrics={"metric": EVIL, EVIL: 0.5})
    charts = re.findall(r"<svg .*?</svg>", render(read_rows([folder])), flags=re.DOTALL)
    assert [ElementTree.fromstring(chart).get("aria-label") for chart in charts] == [
        f"{EVIL} against seconds of training",
        f"{EVIL} against GFLOPs of training",
        "training loss by step",
    ]


def test_the_same_runs_are_the_same_page(folders, page):
    assert render(read_rows(folders)) == page.read_text()


def test_a_page_is_html(folders, tmp_path, capsys):
    assert fails(capsys, "report", folders[0], "--out", tmp_path / "page.txt") == (
        f"--out {tmp_path / 'page.txt'}; allowed: a file name that ends in .html"
    )
    with pytest.raises(UserError, match="no run was given"):
        write_page([], out=tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium with nothing to show it on; its console and its requests are kept."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    driver = shutil.which("chromedriver")
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if driver is None or binary is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    flags = ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run")
    for flag in (*flags, "disable-dev-shm-usage", f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chromium = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chromium.set_page_load_timeout(240)
    yield chromium
    chromium.quit()


def column(browser, number):
    return [
        row.find_elements("css selector", "td")[number].text
        for row in browser.find_elements("css selector", "#runs tbody tr")
    ]


def test_in_a_browser(browser, page, tmp_path):
    """The table is read, sorted by clicks and by keys; nothing is asked of a network, and nothing goes wrong."""
    from selenium.webdriver.common.keys import Keys

    browser.get(page.as_uri())
    browser.set_window_size(1280, 1000)
    assert browser.title == "funnelformer: runs"
    assert column(browser, 0) == ["1", "2", "3", "4", "5"]
    assert column(browser, 8) == ["0.7500", "0.5000", "0.3750 ± 0.1768", "0.9000", "0.6000"]
    assert column(browser, 3)[3] == EVIL
    headers = browser.find_elements("css selector", "#runs th button")
    names = [header.text for header in headers]
    seconds, score = names.index("training time"), names.index("mean ± sd")

    headers[score].click()
    assert column(browser, 0) == ["3", "2", "5", "1", "4"]
    headers[score].click()
    assert column(browser, 0) == ["4", "1", "5", "2", "3"]
    # As numbers, not as text: 9 comes before 100; what is not known is last in both orders.
    headers[seconds].send_keys(Keys.ENTER)
    assert column(browser, seconds) == ["2.5 s", "2.5 s", "9.0 s", "1:40", ""]
    headers[seconds].send_keys(Keys.SPACE)
    assert column(browser, seconds) == ["1:40", "9.0 s", "2.5 s", "2.5 s", ""]
    sorts = browser.find_elements("css selector", "#runs th[aria-sort]")
    assert [(header.text, header.get_attribute("aria-sort")) for header in sorts] == [
        ("training time", "descending")
    ]
    assert (
        browser.find_element("id", "said").get_attribute("textContent")
        == "sorted by training time, descending"
    )
    # Every header is reached with the Tab key, one after another.
    browser.execute_script("document.querySelector('.wide').focus()")
    for name in names[:3]:
        browser.switch_to.active_element.send_keys(Keys.TAB)
        assert browser.switch_to.active_element.text == name

    colours = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        script = "const s = getComputedStyle(document.querySelector(arguments[0])); return [s.color, s.backgroundColor]"
        colours[scheme] = [browser.execute_script(script, place)[0] for place in ("body", "svg")]
        colours[scheme].append(browser.execute_script(script, "body")[1])
        browser.set_window_size(1280, 2400)
        browser.save_screenshot(str(tmp_path / f"{scheme}.png"))
    assert colours["light"] == ["rgb(27, 27, 27)", "rgb(27, 27, 27)", "rgb(255, 255, 255)"]
    assert colours["dark"] == ["rgb(230, 230, 230)", "rgb(230, 230, 230)", "rgb(22, 22, 22)"]
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
    assert len(printed) > 10_000

    assert browser.title == "funnelformer: runs"
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    # Chromium's own first page is chrome://; neither that nor data: asks a network.
    assert {url for url in asked if not url.startswith(("data:", "chrome:", "chrome-untrusted:"))} == {
        page.as_uri()
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_cut_off(browser, page, width, scheme):
    """The table fits, the page never scrolls sideways; the charts are as wide as the page has room for them."""
    browser.get(page.as_uri())
    metrics = {"width": width, "height": 1200, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        wide = """return [document.documentElement, ...document.querySelectorAll(arguments[0])]
            .filter((e) => e.scrollWidth > e.clientWidth && e.clientWidth
                || e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))"""
        assert browser.execute_script(wide, "#runs, .wide, #runs td, svg") == []
        browser.find_element("id", "all").click()  # all thirteen may scroll in their own place, not the page
        assert browser.execute_script(wide, "svg, p") == []
        room = browser.execute_script("return document.querySelector('main').clientWidth")
        charts = browser.execute_script(
            "return [...document.querySelector('.charts').children].map((e) => e.getBoundingClientRect().width)"
        )
        assert sum(charts) > 0.95 * room
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_columns_without_a_difference_are_shown_on_demand(browser, page):
    browser.get(page.as_uri())
    button = browser.find_element("id", "all")
    same = button.find_element("xpath", "..").text
    assert same.startswith("The same in all rows: ")
    assert "score dev_accuracy" in same
    shown = [header.text for header in browser.find_elements("css selector", "#runs th") if header.text]
    assert "score" not in shown
    assert {"#", "run", "task", "mean ± sd", "training time"} <= set(shown)
    button.click()
    shown = [header.text for header in browser.find_elements("css selector", "#runs th") if header.text]
    assert len(shown) == 13
    assert button.text == "Hide these columns"
