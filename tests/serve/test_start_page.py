"""The page in a real browser: typing, reading, the arrow keys."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from serve.running import running, save

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--window-size=1200,1000",
)
# A folder to write pictures of the page to, for eyes.
PICTURES = os.environ.get("FUNNELFORMER_SCREENSHOTS")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Page:
    """What a person does with it."""

    def __init__(self, browser, port):
        self.browser = browser
        browser.get(f"http://127.0.0.1:{port}/")
        self.wait("html[data-ready]")

    def wait(self, selector):
        return WebDriverWait(self.browser, 20).until(
            lambda driver: driver.find_element(By.CSS_SELECTOR, selector)
        )

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def type(self, selector, *keys):
        field = self.wait(selector)
        field.clear()
        field.send_keys(*keys)

    def read(self):
        """Send the form by the keyboard and wait for what comes of it."""
        self.browser.find_element(By.ID, "text").send_keys(Keys.CONTROL, Keys.ENTER)
        WebDriverWait(self.browser, 20).until(
            lambda driver: (
                driver.find_element(By.ID, "status").text.endswith(" ms")
                or driver.find_element(By.ID, "error").is_displayed()
            )
        )

    def bars(self, place):
        """Name and per cent of the bars."""
        rows = [
            [item.find_element(By.CLASS_NAME, name).text for name in ("name", "value")]
            for item in self.all(f"{place} .bars li")
        ]
        return [(name, float(value.removesuffix("%"))) for name, value in rows]

    def row(self, block):
        return self.all(f'#grid .cell[data-block="{block}"]')

    def complaints(self):
        """What the console says: a blocked style, a script that failed."""
        return [entry["message"] for entry in self.browser.get_log("browser")]

    def picture(self, name):
        if PICTURES:
            height = self.browser.execute_script("return document.documentElement.scrollHeight")
            self.browser.set_window_size(1200, max(900, height + 160))
            for scheme in ("light", "dark"):
                features = [{"name": "prefers-color-scheme", "value": scheme}]
                self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
                self.browser.save_screenshot(str(Path(PICTURES) / f"{name}_{scheme}.png"))


def shown(shares):
    """Per cent with one digit after the point."""
    return pytest.approx([100 * share for share in shares], abs=0.0501)


def test_a_text_its_labels_and_its_funnel(browser, service):
    text = "the red cat eats . the blue bird sings ."
    page = Page(browser, service.port)
    assert [chip.text for chip in page.all("#model span")][:3] == ["classes", "B1-1-1H16", "classification"]
    page.type("#text", text)
    page.read()
    row = service.results("/classify", texts=[text])[0]
    expected = sorted(row["probabilities"].items(), key=lambda entry: -entry[1])
    assert [name for name, _ in page.bars("#answer")] == [name for name, _ in expected]
    assert [value for _, value in page.bars("#answer")] == shown([p for _, p in expected])
    assert page.all("#answer .best .name")[0].text == row["prediction"]

    view = service.post("/inspect", {"text": text}).json
    assert len(view["tokens"]) == 12
    assert [cell.text for cell in page.row(1)] == view["tokens"]
    assert [cell.text for cell in page.row(2)][:3] == ["<cls>", "the red", "cat eats"]
    assert [len(page.row(block)) for block in (1, 2, 3)] == [12, 6, 3]
    assert "12 tokens become 3 vectors" in page.wait("#funnel-note").text
    # The last block's first vector is chosen: where it looks, most first.
    looks = view["stages"][2]["looks"][0]
    best = max(range(6), key=looks.__getitem__)
    name, value = page.bars("#detail")[0]
    assert (name, [value]) == (page.row(2)[best].text, shown([looks[best]]))
    page.picture("classes")

    # By the keyboard: up to block 2, right to its second vector.
    browser.switch_to.active_element.send_keys(Keys.TAB)
    page.row(3)[0].send_keys(Keys.ARROW_UP)
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    chosen = browser.switch_to.active_element
    assert (chosen.text, chosen.get_attribute("aria-pressed")) == ("the red", "true")
    assert [cell.text for cell in page.all(".cell.is-member")] == ["the", "red"]
    assert "stands for 2 tokens: the red" in page.wait("#detail").text
    looks = view["stages"][1]["looks"][1]
    assert [value for _, value in page.bars("#detail")] == shown(sorted(looks, reverse=True)[:8])
    # A click does the same.
    page.row(3)[1].click()
    assert "Vector 2 of block 3" in page.wait("#detail").text
    assert page.complaints() == []


def test_markup_stays_text(browser, toy):
    """In a label, in the text, in an error."""
    label = "<img src=x onerror=document.title='owned'>"
    model = save(toy.folder / "markup", toy.tokenizer, "texts", labels=(label, "yes"))
    with running(model) as client:
        page = Page(browser, client.port)
        page.type("#text", "<b>the cat</b><script>document.title='owned'</script>")
        page.read()
        assert label in [name for name, _ in page.bars("#answer")]
        assert page.all("#answer img, #grid b, #grid script") == []
        assert browser.title == "funnelformer"
        page.type("#text", " ")
        page.read()
        assert "should match pattern" in page.wait("#error").text
        assert not page.wait("#answer").is_displayed()


def test_a_token_is_asked_for(browser, classifier):
    with running(classifier, token="correct-horse-battery") as client:
        page = Page(browser, client.port)
        page.type("#text", "the cat")
        page.read()
        assert page.wait("#error").text == "a bearer token is needed"
        page.type("#token", "correct-horse-battery")
        page.read()
        assert len(page.bars("#answer")) == 3


def test_masks(browser, toy):
    with running(toy.pretrained) as client:
        page = Page(browser, client.port)
        page.type("#text", "the red ")
        page.wait("#mask").click()
        page.wait("#text").send_keys(" runs .")
        page.read()
        found = client.results("/fill", texts=["the red <mask> runs ."], top=8)[0]["masks"][0]
        assert [name for name, _ in page.bars("#answer")] == [entry["token"] for entry in found]
        assert "one block" in page.wait("#funnel-note").text


def test_the_interface_as_a_page(browser, service):
    browser.get(f"http://127.0.0.1:{service.port}/docs")
    page = WebDriverWait(browser, 20).until(
        lambda driver: driver.find_elements(By.CSS_SELECTOR, "section h2 code")
    )
    assert [title.text for title in page] == [
        "/classify", "/embed", "/fill", "/answer", "/rank", "/inspect", "/predict", "/rerank", "/info",
        "/v1/embeddings", "/v1/models", "/v1/models/{model}", "/health", "/metrics",
    ]  # fmt: skip
    first = browser.find_element(By.CSS_SELECTOR, "section").text
    assert "list of 1 to 64: string (at most 100,000 characters, not blank) or list of 2" in first
    if PICTURES:
        browser.save_screenshot(str(Path(PICTURES) / "docs.png"))
