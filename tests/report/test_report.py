"""The report: its inputs, its HTML, and the page as a real browser without network shows it."""

import base64
import html.parser
import itertools
import json
import re
import struct
import subprocess
import sys
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
from conftest import PROJECT
from hypothesis import given
from hypothesis import strategies as st

from gru_lm.core.errors import UserError
from gru_lm.core.files import write_arrays
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.report.page import figures, power, quantise, scale_top, script_json, spread, visible
from stages.report import PICTURES, main
from tools.browser import find_chromium, launch

VARIANTS = ("scratch", "concise", "fused")
SPLITS = ("train", "val", "test")
RESERVED = "</script><img src=x onerror=alert(1)>"
CHARACTERS = Vocabulary(
    ("<unk>", RESERVED, *"abcdefgh", " ", "<", "&", "\n", "é", "\u0301"), "char"
)
WORDS = Vocabulary(("<unk>", "the", "time", "traveller", "<b>", "said"), "word")
L, H = 120, 6
KNOWN = {"Z": 0.25, "R": 0.9}  # the gates of unit 3 at position 5

needs_chromium = pytest.mark.skipif(
    find_chromium() is None, reason="needs a Chromium or Chrome on the PATH"
)


def png(width=4, height=3):
    """A grey picture, written by hand."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + b"\x80" * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def gate_arrays(vocabulary, length=L, columns=5, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {}
    for split in ("train", "val"):
        tokens = np.arange(length) % len(vocabulary)  # the same for every variant
        probabilities = np.sort(rng.dirichlet(np.ones(len(vocabulary)), length))[:, ::-1]
        probabilities[0] = np.nan  # the first token is not predicted
        surprise = rng.uniform(0, 12, length)
        surprise[0] = np.nan
        gates = {gate: rng.uniform(0, 1, (length, H)) for gate in ("Z", "R")}
        for gate, value in KNOWN.items():
            gates[gate][5 % length, 3] = value
        alternatives = np.array([rng.permutation(len(vocabulary)) for _ in range(length)])
        arrays |= {
            f"{split}_tokens": tokens,
            f"{split}_surprise": surprise.astype("float32"),
            f"{split}_top_tokens": alternatives[:, :columns],
            f"{split}_top_probabilities": probabilities[:, :columns].astype("float32"),
        }
        arrays |= {f"{split}_{gate}": values.astype("float32") for gate, values in gates.items()}
    arrays["mean_Z"] = np.linspace(0.1, 1, H).astype("float32")
    arrays["mean_R"] = np.linspace(0.9, 0, H).astype("float32")
    arrays["time_constant"] = np.array([3, 1, 2, 5, 4, np.inf], "float32")
    return arrays


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def summary(seeds):
    def figure(mean):
        return {"mean": mean, "sd": 0.25 if len(seeds) > 1 else None}

    def scores(bits):
        return {"bits_per_token": figure(bits), "perplexity": figure(2**bits), "tokens": 9}

    models = {
        variant: {
            **{split: scores(bits + i) for split, bits in zip(SPLITS, (0.5, 6, 7), strict=True)},
            "training_perplexity": figure(1.07),
        }
        for i, variant in enumerate(VARIANTS)
    }
    floor = {split: {"bits_per_token": 4.0, "perplexity": 16.0, "tokens": 9} for split in SPLITS}
    return {"seeds": seeds, "models": models, "baselines": {"unigram": floor, "xz": {}}}


def write_inputs(root, vocabulary=CHARACTERS, length=L, columns=5, seeds=(0, 1, 2), best_val=None):
    """All that the stage reads, in the new folder ``root``."""
    root.mkdir(parents=True)
    vocabulary.save(root / "data/prepared/vocab.json")
    write_json(root / "analysis/summary.json", summary(list(seeds)))
    (root / "analysis/gates").mkdir()
    (root / "samples").mkdir()
    (root / "plots").mkdir()
    for _, name, _, _ in PICTURES:
        (root / f"plots/{name}.png").write_bytes(png())
    for number, variant in enumerate(VARIANTS):
        training = {"perplexity": 1.0661, "parameters": 226076, "best_val": best_val}
        write_json(root / f"metrics/train/{variant}.json", training)
        timing = {"tokens_per_second": 33449.9, "seconds": 140.6}
        write_json(root / f"metrics/timing/{variant}.json", timing)
        write_json(root / f"metrics/export/{variant}.json", {"max_logit_difference": 5.9e-5})
        arrays = gate_arrays(vocabulary, length, columns, seed=number)
        write_arrays(root / f"analysis/gates/{variant}.npz", arrays, vocabulary.fingerprint)
        samples = f"greedy\n  <i>{variant}</i> & co\n  b\n\ntemperature 0.5\n  c\n\td\n"
        (root / f"samples/{variant}.txt").write_text(samples, encoding="utf-8")
    return root


def build(root):
    """Run the stage in ``root``; returns the page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        main()
    return root / "reports/index.html"


@pytest.fixture
def inputs(tmp_path):
    return write_inputs(tmp_path / "project")


# ---------------------------------------------------------------------------------- the parts


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_quantised_gates_are_off_by_half_a_step_at_most(values):
    gate = np.array([values, values[::-1]], "float32")
    read = np.frombuffer(quantise(gate), np.uint8).reshape(gate.shape)
    assert np.abs(read / 255 - gate.astype("float64")).max() <= 1 / 510 + 1e-7


def test_gates_are_stored_row_by_row():
    assert quantise(np.array([[0, 1], [0.2, 0.6]])) == bytes([0, 255, 51, 153])


@given(st.text())
def test_json_cannot_end_its_script_and_loses_nothing(text):
    for value in (text, f"</script>{text}<!--", [{text: "\u2028"}]):
        embedded = script_json(value)
        assert not set("<>&\u2028") & set(embedded)
        assert json.loads(embedded) == value


def test_json_without_meaning_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        script_json([float("nan")])


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("a", ("a", "a")),
        ("<", ("<", "<")),
        (" ", ("␣", "space")),
        ("\n", ("⏎", "line break")),
        ("\t", ("⇥", "tab")),
        ("\u00a0", ("U+00A0", "U+00A0")),
        ("\u200b", ("U+200B", "U+200B")),
        ("\u0301", ("◌\u0301", "\u0301")),
        ("time", ("time", "time")),
    ],
)
def test_every_token_can_be_seen_and_named(token, expected):
    assert visible(token) == expected


def test_numbers_are_written_as_people_do():
    assert [figures(x) for x in (1.0661, 17.4, 113.02, 12345.6)] == [
        "1.07",
        "17.4",
        "113",
        "12,346",
    ]
    assert power(5.9e-5).replace("\u202f", " ") == "6 \u00d7 10⁻⁵"
    assert power(0) == "0"
    assert spread({"mean": 6.849, "sd": None}) == "6.85"
    assert re.sub("<.*?>", "", spread({"mean": 6.849, "sd": 0.2})) == "6.85 ±&nbsp;0.20"


def test_the_scale_covers_19_tokens_in_20():
    assert scale_top([np.array([np.nan, *range(21)])]) == 20  # the 95th percentile is 19
    assert scale_top([np.array([np.nan])]) == scale_top([np.array([0.1])]) == 4


# ----------------------------------------------------------------------------------- the page


class Outline(html.parser.HTMLParser):
    """Elements with their attributes and text, as a browser without JavaScript has them."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)

    def handle_starttag(self, name, attributes):
        element = {"name": name, "attributes": dict(attributes), "text": ""}
        self.elements.append(element)
        if name not in ("meta", "link", "img", "input", "br"):
            self.open.append(element)

    def handle_endtag(self, name):
        assert self.open.pop()["name"] == name, "the elements are nested wrongly"

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def texts(self, name):
        return [" ".join(e["text"].split()) for e in self.elements if e["name"] == name]

    def attributes(self, name):
        return [e["attributes"] for e in self.elements if e["name"] == name]


def test_the_page_says_it_all_without_a_script(inputs):
    outline = Outline(build(inputs).read_text(encoding="utf-8"))
    assert not outline.open
    assert outline.attributes("html") == [{"lang": "en"}]
    assert outline.texts("title") == ["Three gated recurrent units read a book"]
    levels = [int(e["name"][1]) for e in outline.elements if re.fullmatch("h[1-6]", e["name"])]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    rows = outline.texts("tr")
    assert "Training perplexity 1.07 1.07 1.07" in rows
    assert "Validation, bits per character 6.00 ± 0.25 7.00 ± 0.25 8.00 ± 0.25" in rows
    assert "Parameters 226,076 226,076 226,076" in rows
    assert "training, min:s 2:21 2:21 2:21" in rows
    assert "scratch 0.50 1.41 6.00 64.0 7.00 128" in rows
    assert "xz \u2013 \u2013 \u2013" in rows
    assert any("takes 7.00 bits per character: worse than" in text for text in outline.texts("p"))
    images = outline.attributes("img")
    assert len(images) == len(PICTURES) == len(outline.texts("figcaption"))
    for image in images:
        assert image["alt"] and (image["width"], image["height"]) == ("4", "3")
        assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == png()
    assert outline.texts("dd")[:2] == ["<i>scratch</i> & co", "b"]
    assert outline.texts("dd").count("c d") == 3  # a text with a line break
    anchors = {link["href"] for link in outline.attributes("a")}
    ids = {f"#{e['attributes'].get('id')}" for e in outline.elements}
    assert {a for a in anchors if a.startswith("#")} <= ids


def test_nothing_of_the_text_becomes_markup(inputs):
    page = build(inputs).read_text(encoding="utf-8")
    outline = Outline(page)
    assert len(outline.texts("script")) == 2
    assert "onerror" not in {k for e in outline.elements for k in e["attributes"]}
    assert not any(key.startswith("on") for e in outline.elements for key in e["attributes"])
    assert not any("style" in e["attributes"] for e in outline.elements)
    (policy,) = [m["content"] for m in outline.attributes("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    data = json.loads(outline.texts("script")[0])
    assert [RESERVED, RESERVED] in data["texts"]


def test_the_same_results_make_the_same_bytes(inputs):
    first = build(inputs).read_bytes()
    assert build(inputs).read_bytes() == first


def test_the_stage_starts_without_torch_and_matplotlib():
    code = "import sys, stages.report; print({'torch', 'matplotlib'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_the_document_holds_what_was_recorded(inputs):
    data = json.loads(Outline(build(inputs).read_text(encoding="utf-8")).texts("script")[0])
    arrays = gate_arrays(CHARACTERS, seed=1)
    reading = data["models"]["concise"]["readings"]["val"]
    spoken = [data["texts"][number][1] for number in data["passages"]["val"]]
    assert spoken == [visible(CHARACTERS.tokens[n])[1] for n in arrays["val_tokens"]]
    assert reading["surprise"][0] is None and reading["alternatives"][0] == []
    assert reading["surprise"][1:] == pytest.approx(arrays["val_surprise"][1:].tolist(), rel=1e-3)
    alternatives = reading["alternatives"][7]
    expected = [visible(CHARACTERS.tokens[n])[0] for n in arrays["val_top_tokens"][7]]
    assert [data["texts"][number][0] for number, _ in alternatives] == expected
    probabilities = arrays["val_top_probabilities"][7].tolist()
    assert [p for _, p in alternatives] == pytest.approx(probabilities, rel=6e-3)
    update = np.frombuffer(base64.b64decode(reading["update"]), np.uint8).reshape(L, H)
    assert np.abs(update / 255 - arrays["val_Z"]).max() <= 1 / 510 + 1e-7
    assert data["models"]["concise"]["timeConstant"] == [3, 1, 2, 5, 4, None]


@pytest.mark.parametrize(
    "options",
    [
        {"length": 2, "columns": 1},
        {"seeds": [0]},
        {"vocabulary": WORDS},
        {"vocabulary": Vocabulary(("<unk>",)), "length": 3, "columns": 1},
        {"best_val": {"epoch": 205, "perplexity": 7.95}},
    ],
    ids=["two tokens", "one seed", "words", "one token", "validated"],
)
def test_small_and_other_experiments(tmp_path, options):
    outline = Outline(build(write_inputs(tmp_path / "p", **options)).read_text(encoding="utf-8"))
    text = " ".join(outline.texts("main"))
    assert ("±" in text) == ("seeds" not in options)
    assert ("bits per word" in text) == (options.get("vocabulary") is WORDS)
    assert ("Best epoch by validation 205 205 205" in text) == ("best_val" in options)
    assert "nan" not in re.findall(r"\w+", text.lower())


INPUTS = {
    "data/prepared/vocab.json": "prepare",
    "analysis/summary.json": "summarise",
    "metrics/train/concise.json": "train@concise",
    "metrics/timing/fused.json": "train@fused",
    "metrics/export/scratch.json": "export@scratch",
    "analysis/gates/fused.npz": "gates@fused",
    "samples/concise.txt": "sample@concise",
    "plots/claim.png": "plot",
}


def failure(root):
    with pytest.raises(UserError) as caught:
        build(root)
    assert not (root / "reports").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", INPUTS)
def test_a_missing_input_names_its_stage(inputs, path):
    (inputs / path).unlink()
    assert failure(inputs) == (
        f"{path} is missing: run the stage that makes it, dvc repro {INPUTS[path]}"
    )


@pytest.mark.parametrize("path", INPUTS)
@pytest.mark.parametrize("content", [b"", b"\xff\xfenonsense", b'{"a": 1}', b"PK\3\4"])
def test_a_damaged_input_names_its_stage(inputs, path, content):
    (inputs / path).write_bytes(content)
    message = failure(inputs)
    assert message.startswith(f"{path} is damaged (")
    assert message.endswith(f"dvc repro {INPUTS[path]}")


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("val_Z", lambda a: a * 3, "a gate of val is not between 0 and 1"),
        ("val_R", lambda a: a * np.nan, "a gate of val is not between 0 and 1"),
        ("val_R", lambda a: a[:-1], "the arrays of val do not fit each other"),
        ("train_surprise", lambda a: a[:, None], "the arrays of train do not fit each other"),
        ("mean_R", lambda a: a[:-1], "the units' means are not of one length"),
        ("train_tokens", lambda a: a + 99, "a token of train is not in the vocabulary"),
        ("train_tokens", lambda a: a[::-1], "its train passage is not that of scratch"),
        ("mean_Z", None, "it has no array 'mean_Z'"),
        ("mean_Z", lambda a: np.array([None]), "Object arrays cannot be loaded"),
    ],
)
def test_gates_that_cannot_be_are_refused(inputs, name, change, why):
    path = inputs / "analysis/gates/fused.npz"
    arrays = dict(np.load(path))
    array = arrays.pop(name)
    if change:
        arrays[name] = change(array)
    np.savez(path, **arrays)
    assert f"damaged ({why}" in failure(inputs)


# -------------------------------------------------------------------------------- the browser


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return build(write_inputs(tmp_path_factory.mktemp("report") / "project"))


@pytest.fixture(scope="module")
def browser():
    with launch() as browser:
        yield browser


@contextmanager
def opened(browser, path, **options):
    """The file ``path`` at 1200 by 900 pixels; then there were no errors and no other requests.

    ``options`` are those of ``Browser.new_page``.
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
    """The report in light."""
    with opened(browser, report) as page:
        yield page


def prefer(page, scheme):
    """Prefer the colour ``scheme``. The page's listener runs when the next frame is drawn."""
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
    arrays = gate_arrays(CHARACTERS, seed=VARIANTS.index(variant))
    number = arrays[f"{split}_tokens"][position]
    rows = [
        (visible(CHARACTERS.tokens[n])[0], float(p))
        for n, p in zip(
            arrays[f"{split}_top_tokens"][position],
            arrays[f"{split}_top_probabilities"][position],
            strict=True,
        )
    ]
    if number not in arrays[f"{split}_top_tokens"][position]:
        surprise = float(arrays[f"{split}_surprise"][position])
        rows.append((visible(CHARACTERS.tokens[number])[0], 2**-surprise))
    return rows


def assert_shows(page, variant, split, position):
    """The panel is about the position, with the alternatives that were recorded."""
    where = page.locator("#detail").inner_text()
    assert f"character {position + 1} of {L}" in where
    expected = expected_alternatives(variant, split, position)
    shown = alternatives(page)
    assert [text for text, _ in shown] == [text for text, _ in expected]
    for (_, row), (_, probability) in zip(shown, expected, strict=True):
        percent = float(re.search(r"([\d.]+) %", row)[1])
        assert percent == pytest.approx(100 * probability, abs=0.51, rel=0.01)


# The stops of the scales in report.css, as lightness, chroma and hue.
SCALES = {
    ("gate", "light"): ((0.975, 0.008, 85), (0.7, 0.1, 230), (0.4, 0.13, 265)),
    ("gate", "dark"): ((0.22, 0.008, 85), (0.522, 0.11, 255), (0.86, 0.08, 200)),
    ("surprise", "light"): ((0.975, 0.008, 85), (0.72, 0.15, 55), (0.41, 0.14, 20)),
    ("surprise", "dark"): ((0.22, 0.008, 85), (0.54, 0.13, 35), (0.86, 0.12, 85)),
}


def oklab(scale, value):
    """The colour at ``value`` of a scale with evenly spaced stops."""
    stops = [
        (lightness, chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue)))
        for lightness, chroma, hue in scale
    ]
    return [np.interp(value, (0, 0.5, 1), axis) for axis in zip(*stops, strict=True)]


def background(page, position):
    colour = style(page, token(position), "background-color")
    assert colour.startswith("oklab("), colour
    return [float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", colour)][:3]


# The colour of every text and of what is behind it, each pair once.
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


# The colours of a token's text and ground at a value of the scale.
COLOURS_AT = """(token, value) => {
    token.style.setProperty("--value", value);
    const { color, backgroundColor } = getComputedStyle(token);
    return [color, backgroundColor];
}"""


def contrast(page, text, ground):
    """The WCAG contrast ratio of two CSS colours, as a canvas paints them."""
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
def test_the_mouse_shows_what_else_was_expected(page):
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


@needs_chromium
def test_the_arrow_keys_go_through_the_text(page):
    focused = "Number(document.activeElement.dataset.position)"
    assert page.locator("[role=option][tabindex='0']").count() == 1
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.role") == "option":
            break
    assert page.evaluate(focused) == 0, "the text cannot be reached with the Tab key"
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
def test_units_and_gates_recolour_the_text(page):
    surprise = background(page, 5)
    top = page.evaluate("JSON.parse(document.getElementById('data').textContent).scaleTop")
    value = min(float(gate_arrays(CHARACTERS)["val_surprise"][5]) / top, 1)
    assert surprise == pytest.approx(oklab(SCALES["surprise", "light"], value), abs=2e-3)
    choose(page, "view", "update")
    # Ordered by time constant, 1 2 3 4 5 ∞ are those of the units 1 2 0 4 3 5; the last is chosen.
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
    page.locator("#next").click()  # after the last comes the first
    assert page.evaluate(unit) == 1
    page.locator("#order").select_option("number")
    page.locator("#next").click()
    assert page.evaluate(unit) == 2
    choose(page, "view", "surprise")
    prefer(page, "light")
    assert background(page, 5) == pytest.approx(surprise, abs=1e-6)


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(page, scheme):
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
def test_scales_are_even_and_need_no_colour_vision(scale):
    colours = np.array([oklab(SCALES[scale], value) for value in np.linspace(0, 1, 21)])
    steps = np.linalg.norm(np.diff(colours, axis=0), axis=1)
    assert steps.max() / steps.min() < 1.25
    lightness = np.diff(colours[:, 0])
    assert (lightness < 0).all() if scale[1] == "light" else (lightness > 0).all()
    assert np.abs(lightness).max() / np.abs(lightness).min() < 1.35


@needs_chromium
def test_the_button_changes_the_scheme(page):
    prefer(page, "dark")
    dark = style(page, "html", "background-color")
    assert page.locator("#theme").text_content() == "Light page"
    page.locator("#theme").click()
    assert style(page, "html", "background-color") != dark
    prefer(page, "light")
    page.locator("#theme").click()
    assert style(page, "html", "background-color") == dark


@needs_chromium
@pytest.mark.parametrize("width", [320, 360, 768, 1000, 1600])
def test_nothing_is_wider_than_the_screen(browser, report, width):
    phone = width < 500
    with opened(browser, report, is_mobile=phone, has_touch=phone) as page:
        page.set_viewport_size({"width": width, "height": 740})
        for view in ("surprise", "reset"):
            choose(page, "view", view)
            assert page.evaluate("document.scrollingElement.scrollWidth") <= width
            outside = """(width) => [...document.querySelectorAll("body *")]
                .filter((element) => !element.closest(".long, .skip")
                    && element.getBoundingClientRect().right > width + 0.5)
                .map((element) => element.outerHTML)"""
            assert page.evaluate(outside, width) == []


@needs_chromium
def test_a_tap_shows_the_same_as_the_mouse(browser, report):
    with opened(browser, report, is_mobile=True, has_touch=True) as page:
        page.set_viewport_size({"width": 360, "height": 740})
        page.locator(token(30)).tap()
        assert_shows(page, "scratch", "val", 30)


@needs_chromium
def test_on_paper_the_page_is_light_and_without_controls(page):
    page.emulate_media(media="print", color_scheme="dark")
    assert style(page, "#controls", "display") == "none"
    assert contrast(page, style(page, "html", "background-color"), "black") > 18


@needs_chromium
def test_words_are_spaced_and_markup_is_shown(browser, tmp_path):
    with opened(browser, build(write_inputs(tmp_path / "words", WORDS))) as page:
        text = page.locator("#passage").inner_text()
        assert text.split()[:7] == ["<unk>", "the", "time", "traveller", "<b>", "said", "<unk>"]
        assert page.locator("#passage b").count() == 0
        page.locator(token(4)).hover()
        assert "word 5 of" in page.locator("#detail").inner_text()


@needs_chromium
def test_the_policy_refuses_the_network(browser, report):
    messages = []
    with browser.new_page(offline=True) as page:
        page.on("console", lambda message: messages.append(message.text))
        page.goto(report.as_uri())
        fetch = "fetch('data:text/plain,x').then(() => 'answered', () => 'refused')"
        assert page.evaluate(fetch) == "refused"
    assert any("Content Security Policy" in message for message in messages)


@needs_chromium
def test_the_screenshot_tool(report, tmp_path):
    picture = tmp_path / "report.png"
    command = [sys.executable, "-m", "tools.screenshot", str(report), str(picture)]
    subprocess.run(command, cwd=PROJECT, check=True)
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (1200, 740)
    missing = [*command[:3], str(tmp_path / "none.html")]
    result = subprocess.run(missing, cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == 1
    assert "none.html is missing" in result.stderr
