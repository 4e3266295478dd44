"""The report in a real browser without network."""

import re
import struct
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from built_page import build
from conftest import PROJECT
from examples import CHARACTERS, KNOWN, VARIANTS, WORDS, L, gate_arrays, write_project

from gru_lm.report.wording import visible
from tools.browser import find_chromium, launch

needs_chromium = pytest.mark.skipif(
    find_chromium() is None, reason="needs a Chromium or Chrome on the PATH"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Return a page with pictures of the real size."""
    root = write_project(tmp_path_factory.mktemp("report") / "project")
    return build(root, width=1140, height=630)


@pytest.fixture(scope="module")
def browser():
    with launch() as browser:
        yield browser


@contextmanager
def opened(browser, path, **options):
    """Open the file ``path`` at 1200 by 900 pixels, and assert no errors and no other requests.

    ``options`` are passed to ``Browser.new_page``.
    """
    requests, faults = [], []
    with browser.new_page(viewport={"width": 1200, "height": 900}, offline=True, **options) as page:
        page.on("request", lambda request: requests.append(request.url))
        page.on("websocket", lambda socket: requests.append(socket.url))
        page.on("pageerror", lambda error: faults.append(error.stack))
        page.on("console", lambda m: m.type in ("error", "assert") and faults.append(m.text))
        page.goto(path.as_uri())
        yield page
    assert not faults
    assert requests == [path.as_uri()]


@pytest.fixture
def page(browser, report):
    """Return the report in the light theme."""
    with opened(browser, report) as page:
        yield page


def prefer(page, scheme):
    """Prefer the colour ``scheme``. The page's listener runs in the next frame."""
    page.emulate_media(color_scheme=scheme)
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def token(position):
    return f"[data-position='{position}']"


def style(page, selector, name):
    value = "(element, name) => getComputedStyle(element).getPropertyValue(name)"
    return page.locator(selector).evaluate(value, name)


def choose(page, name, value):
    page.locator(f"[name={name}][value={value}] + span").click()


def alternatives(page):
    texts = "(rows) => rows.map((row) => [row.firstChild.textContent, row.innerText])"
    return page.locator("#detail li").evaluate_all(texts)


def expected_alternatives(variant, split, position):
    reading = gate_arrays(seed=VARIANTS.index(variant)).readings[split]
    number, numbers = reading.tokens[position], reading.top_tokens[position]
    rows = [
        (visible(CHARACTERS.tokens[n])[0], float(p))
        for n, p in zip(numbers, reading.top_probabilities[position], strict=True)
    ]
    if number not in numbers:
        surprise = float(reading.surprise[position])
        rows.append((visible(CHARACTERS.tokens[number])[0], 2**-surprise))
    return rows


def assert_shows(page, variant, split, position):
    """Assert that the panel shows the position and its recorded alternatives."""
    where = page.locator("#detail").inner_text()
    assert f"character {position + 1} of {L}" in where
    expected = expected_alternatives(variant, split, position)
    shown = alternatives(page)
    assert [text for text, _ in shown] == [text for text, _ in expected]
    for (_, row), (_, probability) in zip(shown, expected, strict=True):
        percent = float(re.search(r"([\d.]+) %", row)[1])
        assert percent == pytest.approx(100 * probability, abs=0.51, rel=0.01)


# The stops of the scales in reader.css, as lightness, chroma and hue.
SCALES = {
    ("gate", "light"): ((0.975, 0.008, 85), (0.7, 0.1, 230), (0.4, 0.13, 265)),
    ("gate", "dark"): ((0.22, 0.008, 85), (0.522, 0.11, 255), (0.86, 0.08, 200)),
    ("surprise", "light"): ((0.975, 0.008, 85), (0.72, 0.15, 55), (0.41, 0.14, 20)),
    ("surprise", "dark"): ((0.22, 0.008, 85), (0.54, 0.13, 35), (0.86, 0.12, 85)),
}


def oklab(scale, value):
    """Return the colour at ``value`` of a scale with evenly spaced stops."""
    stops = [
        (lightness, chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue)))
        for lightness, chroma, hue in scale
    ]
    return [np.interp(value, (0, 0.5, 1), axis) for axis in zip(*stops, strict=True)]


def background(page, position):
    colour = style(page, token(position), "background-color")
    assert colour.startswith("oklab("), colour
    return [float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", colour)][:3]


# The distinct pairs of text colour and background colour.
COLOURS_OF_TEXT = """(() => {
    const ground = (element) => {
        const colour = getComputedStyle(element).backgroundColor;
        return colour === "rgba(0, 0, 0, 0)" ? ground(element.parentElement) : colour;
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const pairs = new Map();
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !element.checkVisibility()) continue;
        const pair = [getComputedStyle(element).color, ground(element)];
        pairs.set(pair.join(), pair);
    }
    return [...pairs.values()];
})()"""


# The colours of a token's text and background at a value of the scale.
COLOURS_AT = """(token, value) => {
    token.style.setProperty("--value", value);
    const { color, backgroundColor } = getComputedStyle(token);
    return [color, backgroundColor];
}"""


def contrast(page, text, ground):
    """Return the WCAG contrast ratio of two CSS colours, as a canvas paints them."""
    paint = """(colours) => colours.map((colour) => {
        const canvas = document.createElement("canvas").getContext("2d");
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    })"""
    channels = np.array(page.evaluate(paint, [text, ground]))[:, :3] / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return (high + 0.05) / (low + 0.05)


@needs_chromium
def test_mouse_shows_alternatives(page):
    page.locator(token(17)).hover()
    assert_shows(page, "scratch", "val", 17)
    choose(page, "model", "fused")
    choose(page, "passage", "train")
    page.locator(token(40)).hover()
    assert_shows(page, "fused", "train", 40)
    page.locator(token(0)).hover()
    assert "not predicted" in page.locator("#detail").inner_text()
    assert alternatives(page) == []
    assert page.locator("#detail").get_attribute("aria-live") == "polite"


def opens_at(split):
    """Return the position of the first model's largest surprise."""
    return int(np.nanargmax(gate_arrays().readings[split].surprise))


@needs_chromium
def test_reader_opens_at_largest_surprise(page):
    assert opens_at("val") > 0
    assert_shows(page, "scratch", "val", opens_at("val"))
    choose(page, "passage", "train")
    assert_shows(page, "scratch", "train", opens_at("train"))
    choose(page, "model", "fused")  # the position is kept
    assert_shows(page, "fused", "train", opens_at("train"))


@needs_chromium
def test_arrow_keys_move_through_text(page):
    focused = "Number(document.activeElement.dataset.position)"
    assert page.locator("[role=option][tabindex='0']").count() == 1
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.role") == "option":
            break
    assert page.evaluate(focused) == opens_at("val"), "the Tab key does not reach the text"
    page.keyboard.press("Home")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused) == 2
    assert_shows(page, "scratch", "val", 2)
    assert style(page, ":focus", "outline-style") == "solid"
    top = page.evaluate("document.activeElement.offsetTop")
    page.keyboard.press("ArrowDown")
    below = page.evaluate(focused)
    assert page.evaluate("document.activeElement.offsetTop") > top
    assert_shows(page, "scratch", "val", below)
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.offsetTop") == top
    page.keyboard.press("End")
    assert page.evaluate(focused) == L - 1
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == L - 1
    page.keyboard.press("Home")
    assert page.evaluate(focused) == 0
    assert page.locator("[role=option][tabindex='0']").count() == 1


@needs_chromium
def test_unit_and_gate_choice_recolours_text(page):
    surprise = background(page, 5)
    top = page.evaluate("JSON.parse(document.getElementById('data').textContent).scaleTop")
    value = min(float(gate_arrays().readings["val"].surprise[5]) / top, 1)
    assert surprise == pytest.approx(oklab(SCALES["surprise", "light"], value), abs=2e-3)
    choose(page, "view", "update")
    # Sorted, the time constants 1 2 3 4 5 ∞ belong to units 1 2 0 4 3 5. The last is selected.
    unit = "document.getElementById('unit').valueAsNumber"
    assert page.evaluate(unit) == 5
    assert "∞" in page.locator("#unit-facts").text_content()
    page.locator("#previous").click()
    assert page.evaluate(unit) == 3
    facts = page.locator("#unit-facts").text_content()
    assert facts == "Time constant 5.00 characters, mean update gate 0.640, mean reset gate 0.360"
    quantised = {gate: round(value * 255) / 255 for gate, value in KNOWN.items()}
    expected = oklab(SCALES["gate", "light"], quantised["Z"])
    assert background(page, 5) == pytest.approx(expected, abs=2e-3)
    choose(page, "view", "reset")
    expected = oklab(SCALES["gate", "light"], quantised["R"])
    assert background(page, 5) == pytest.approx(expected, abs=2e-3)
    page.locator(token(5)).hover()
    assert "unit 3: 0.90" in page.locator("#detail").inner_text()
    prefer(page, "dark")
    expected = oklab(SCALES["gate", "dark"], quantised["R"])
    assert background(page, 5) == pytest.approx(expected, abs=2e-3)
    page.locator("#previous").click()
    assert page.evaluate(unit) == 4
    assert background(page, 5) != pytest.approx(expected, abs=2e-3)
    for _ in range(2):
        page.locator("#next").click()
    page.locator("#next").click()  # the first follows the last
    assert page.evaluate(unit) == 1
    page.locator("#order").select_option("number")
    page.locator("#next").click()
    assert page.evaluate(unit) == 2
    choose(page, "view", "surprise")
    prefer(page, "light")
    assert background(page, 5) == pytest.approx(surprise, abs=1e-6)


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrast(page, scheme):
    prefer(page, scheme)
    lightness = contrast(page, style(page, "html", "background-color"), "black")
    assert lightness > 18 if scheme == "light" else lightness < 1.3
    choose(page, "view", "update")
    pairs = page.evaluate(COLOURS_OF_TEXT)
    assert len(pairs) > 20
    for text, ground in pairs:
        assert contrast(page, text, ground) >= 4.5, (text, ground)
    for view in ("surprise", "update"):
        choose(page, "view", view)
        for value in np.linspace(0, 1, 101):
            colours = page.locator(token(7)).evaluate(COLOURS_AT, float(value))
            assert contrast(page, *colours) >= 4.5, (view, value)


@pytest.mark.parametrize("scale", SCALES)
def test_colour_scales_are_even_in_lightness(scale):
    colours = np.array([oklab(SCALES[scale], value) for value in np.linspace(0, 1, 21)])
    steps = np.linalg.norm(np.diff(colours, axis=0), axis=1)
    assert steps.max() / steps.min() < 1.25
    lightness = np.diff(colours[:, 0])
    assert (lightness < 0).all() if scale[1] == "light" else (lightness > 0).all()
    assert np.abs(lightness).max() / np.abs(lightness).min() < 1.35


def shown(page, within="figure"):
    """Return the themes of the visible pictures, and whether all of them have been decoded."""
    images = page.locator(f"{within} img")
    found = """(images) => images.filter((image) => image.checkVisibility())
        .map((image) => [image.className, image.naturalWidth])"""
    themes = images.evaluate_all(found)
    assert all(width == 1140 for _, width in themes)
    return {theme for theme, _ in themes}


@needs_chromium
def test_button_changes_theme(page):
    prefer(page, "dark")
    dark = style(page, "html", "background-color")
    assert page.locator("#theme").text_content() == "Light page"
    assert shown(page) == {"dark"}
    page.locator("#theme").click()
    assert style(page, "html", "background-color") != dark
    assert shown(page) == {"light"}
    prefer(page, "light")
    assert shown(page) == {"light"}
    page.locator("#theme").click()
    assert style(page, "html", "background-color") == dark
    assert shown(page) == {"dark"}
    picture = page.locator("img.dark").first
    assert style(page, "figure img.dark >> nth=0", "background-color") == dark
    assert picture.get_attribute("alt")


@needs_chromium
def test_pictures_follow_system_theme_without_script(browser, report):
    with opened(browser, report, java_script_enabled=False, color_scheme="dark") as page:
        assert not page.locator("img.light").first.is_visible()
        assert page.locator("img.dark").first.is_visible()
        assert page.locator("figure button").count() == 0


def focused_picture(page):
    """Return the number of the picture whose button has the focus."""
    return page.evaluate(
        "[...document.querySelectorAll('.picture > button')].indexOf(document.activeElement)"
    )


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_keyboard_enlarges_picture(page, scheme):
    prefer(page, scheme)
    dialog = page.locator("dialog")
    assert page.get_by_role("button", name="Bar chart of training speed").count() == 1
    page.locator(".picture > button").nth(2).focus()
    page.keyboard.press("Enter")
    assert dialog.is_visible()
    assert shown(page, "dialog") == {scheme}
    page.set_viewport_size({"width": 700, "height": 500})
    start = page.locator("dialog img:visible").bounding_box()
    assert start["width"] == 1140  # its own size
    page.keyboard.press("ArrowRight")  # the picture has the focus and scrolls smoothly
    for _ in range(100):
        if page.locator("dialog img:visible").bounding_box()["x"] < start["x"]:
            break
        page.wait_for_timeout(20)
    else:
        pytest.fail("the picture does not scroll")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert focused_picture(page) == 2
    page.keyboard.press("Space")
    page.locator("#close").press("Enter")
    assert not dialog.is_visible()
    assert focused_picture(page) == 2


@needs_chromium
def test_click_beside_picture_closes_it(page):
    page.set_viewport_size({"width": 1400, "height": 900})
    dialog = page.locator("dialog")
    page.locator(".picture > button").nth(1).click()
    page.locator("dialog img:visible").click()
    assert dialog.is_visible()
    page.mouse.click(20, 860)
    assert not dialog.is_visible()
    assert focused_picture(page) == 1


@needs_chromium
def test_phone_shows_legible_pictures(browser, report):
    with opened(browser, report, is_mobile=True, has_touch=True) as page:
        page.set_viewport_size({"width": 390, "height": 844})
        picture = page.locator("figure img.light").first
        points = picture.bounding_box()["width"] / (1140 / 150 * 72)  # CSS pixels per point
        assert 8.5 * points >= 11  # notes in pictures have 8.5 points
        frame = page.locator(".picture").first
        wide, seen = frame.evaluate("(frame) => [frame.scrollWidth, frame.clientWidth]")
        assert wide > seen and seen <= 390
        assert page.locator(".when-narrow").is_visible()
        frame.tap()
        assert page.locator("dialog img.light").bounding_box()["width"] == 1140
        page.locator("#close").tap()
        assert not page.locator("dialog").is_visible()
        assert focused_picture(page) == 0


@needs_chromium
@pytest.mark.parametrize("width", [320, 390, 768, 1000, 1600])
def test_content_fits_screen_width(browser, report, width):
    phone = width < 500
    with opened(browser, report, is_mobile=phone, has_touch=phone) as page:
        page.set_viewport_size({"width": width, "height": 740})
        for view in ("surprise", "reset"):
            choose(page, "view", view)
            assert page.evaluate("document.scrollingElement.scrollWidth") <= width
            outside = """(width) => [...document.querySelectorAll("body *")]
                .filter((element) => !element.closest(".long, .skip, .picture")
                    && element.getBoundingClientRect().right > width + 0.5)
                .map((element) => element.outerHTML)"""
            assert page.evaluate(outside, width) == []


@needs_chromium
def test_tap_shows_same_as_mouse(browser, report):
    with opened(browser, report, is_mobile=True, has_touch=True) as page:
        page.set_viewport_size({"width": 360, "height": 740})
        page.locator(token(30)).tap()
        assert_shows(page, "scratch", "val", 30)


@needs_chromium
def test_print_is_light_without_controls(page):
    page.emulate_media(color_scheme="light")
    page.locator("#theme").click()
    assert shown(page) == {"dark"}
    for scheme in ("light", "dark"):
        page.emulate_media(media="print", color_scheme=scheme)
        assert style(page, "#controls", "display") == "none"
        assert contrast(page, style(page, "html", "background-color"), "black") > 18
        assert shown(page) == {"light"}
        page.set_viewport_size({"width": 650, "height": 900})  # about A4 without its margins
        frame = page.locator(".picture").first
        assert frame.evaluate("(frame) => frame.scrollWidth <= frame.clientWidth")
        assert not page.locator(".when-narrow").is_visible()


@needs_chromium
def test_words_are_spaced_and_markup_escaped(browser, tmp_path):
    with opened(browser, build(write_project(tmp_path / "words", vocabulary=WORDS))) as page:
        text = page.locator("#passage").inner_text()
        assert text.split()[:7] == ["<unk>", "the", "time", "traveller", "<b>", "said", "<unk>"]
        assert page.locator("#passage b").count() == 0
        page.locator(token(4)).hover()
        assert "word 5 of" in page.locator("#detail").inner_text()


@needs_chromium
def test_policy_refuses_network(browser, report):
    messages = []
    with browser.new_page(offline=True) as page:
        page.on("console", lambda message: messages.append(message.text))
        page.goto(report.as_uri())
        fetch = "fetch('data:text/plain,x').then(() => 'answered', () => 'refused')"
        assert page.evaluate(fetch) == "refused"
    assert any("Content Security Policy" in message for message in messages)


@needs_chromium
def test_screenshot_tool(report, tmp_path):
    picture = tmp_path / "report.png"
    command = [sys.executable, "-m", "tools.screenshot", str(report), str(picture)]
    subprocess.run(command, cwd=PROJECT, check=True)
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (1200, 740)
    missing = [*command[:3], str(tmp_path / "none.html")]
    result = subprocess.run(missing, cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == 1
    assert "none.html is missing" in result.stderr
