"""The parts of the page, its HTML, and its errors if inputs cannot be used."""

import base64
import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from built_page import Outline, build
from conftest import PROJECT
from examples import (
    CHARACTERS,
    RESERVED,
    VARIANTS,
    WORDS,
    H,
    L,
    gate_arrays,
    model_summary,
    png,
    summary,
    write_pictures,
    write_project,
)
from hypothesis import given
from hypothesis import strategies as st

from gru_lm.core.errors import UserError
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.report.figures import figures
from gru_lm.report.inputs import Inputs
from gru_lm.report.page import spread, title
from gru_lm.report.reader import most_surprising, quantise, scale_top, script_json
from gru_lm.report.wording import visible
from gru_lm.results.seeds import Spread
from gru_lm.results.training import Best
from stages import made_by
from stages.report import main


@pytest.fixture
def inputs(tmp_path):
    return write_project(tmp_path / "project")


# ---------------------------------------------------------------------------------- the parts


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_quantisation_error_is_at_most_half_a_step(values):
    gate = np.array([values, values[::-1]], "float32")
    read = np.frombuffer(quantise(gate), np.uint8).reshape(gate.shape)
    assert np.abs(read / 255 - gate.astype("float64")).max() <= 1 / 510 + 1e-7


def test_gates_are_stored_row_by_row():
    assert quantise(np.array([[0, 1], [0.2, 0.6]])) == bytes([0, 255, 51, 153])


@given(st.text())
def test_json_is_safe_in_a_script_element(text):
    for value in (text, f"</script>{text}<!--", [{text: "\u2028"}]):
        embedded = script_json(value)
        assert not set("<>&\u2028") & set(embedded)
        assert json.loads(embedded) == value


def test_json_refuses_nan_and_infinity():
    with pytest.raises(ValueError, match="JSON"):
        script_json([float("nan")])


def test_spread_of_one_seed_is_its_mean():
    values = {"mean": 6.849, "min": 6.8, "max": 6.9, "median": 6.85}
    assert spread(Spread(**values, sd=None)) == "6.85"
    assert re.sub("<.*?>", "", spread(Spread(**values, sd=0.2))) == "6.85 ±&nbsp;0.20"


def test_scale_covers_95_percent_of_tokens():
    assert scale_top([np.array([np.nan, *range(21)])]) == 20  # the 95th percentile is 19
    assert scale_top([np.array([np.nan])]) == scale_top([np.array([0.1])]) == 4


@given(st.lists(st.floats(0, 60) | st.just(float("nan")), min_size=1))
def test_reader_opens_at_largest_surprise(values):
    position = most_surprising(np.array(values))
    known = [value for value in values if not np.isnan(value)]
    assert position == (values.index(max(known)) if known else 0)


def test_title_depends_on_models():
    assert title(3, True) == "Results of three GRU language models"
    assert title(1, True) == "Results of a GRU language model"
    assert title(4, False) == "Results of four recurrent language models"
    assert title(1, False) == "Results of a recurrent language model"
    assert title(12, True) == "Results of 12 GRU language models"


# ----------------------------------------------------------------------------------- the page


def test_page_is_complete_without_script(inputs):
    outline = Outline(build(inputs).read_text(encoding="utf-8"))
    assert not outline.open
    assert outline.attributes("html") == [{"lang": "en"}]
    assert outline.texts("title") == ["Results of three GRU language models"]
    levels = [int(e["name"][1]) for e in outline.elements if re.fullmatch("h[1-6]", e["name"])]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    rows = outline.texts("tr")
    assert "Training perplexity 1.07 1.07 1.07" in rows
    assert "in the textbook, on The Time Machine 1.1 1.0 none" in rows
    assert "Training split 1.41 2.83 5.66" in rows
    assert "Validation split 64.0 128 256" in rows
    assert "Parameters 226,076 226,076 226,076" in rows
    assert "Training time, min:s 2:21 2:21 2:21" in rows
    assert "scratch (the equations) 0.50 ± 0.25 6.00 ± 0.25 7.00 ± 0.25" in rows
    assert "unigram 4.00 4.00 4.00" in rows
    images = outline.attributes("img")
    assert len(images) == 28 == 2 * len(outline.texts("figcaption"))
    for light, dark in zip(images[::2], images[1::2], strict=True):
        assert light["alt"] and light["alt"] == dark["alt"]
        for image, theme, picture in ((light, "light", png()), (dark, "dark", png(value=20))):
            assert image["class"] == theme
            assert (image["width"], image["height"]) == ("4", "3")
            assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == picture
    assert outline.texts("dd")[:2] == ["<i>scratch</i> & co", "b"]
    assert outline.texts("dd").count("c d") == 3  # a text with a line break
    anchors = {link["href"] for link in outline.attributes("a")}
    ids = {f"#{e['attributes'].get('id')}" for e in outline.elements}
    assert {a for a in anchors if a.startswith("#")} <= ids


def test_text_is_escaped(inputs):
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
    assert [RESERVED.replace(" ", "␣"), RESERVED] in data["texts"]


def test_same_results_give_same_bytes(inputs):
    first = build(inputs).read_bytes()
    assert build(inputs).read_bytes() == first


def test_stage_draws_dark_figures(tmp_path, monkeypatch):
    monkeypatch.chdir(write_project(tmp_path / "p", ["concise"]))
    paths = [figure.path for figure in figures(Inputs(["concise"]))]
    write_pictures(paths)
    main()
    page = (tmp_path / "p/reports/index.html").read_text(encoding="utf-8")
    assert page.count('class="dark"') == len(paths) == page.count('class="light"')
    assert len(page) > 100_000 * len(paths) / 4  # real pictures, not the grey ones


def test_stage_starts_without_torch_and_matplotlib():
    code = "import sys, stages.report; print({'torch', 'matplotlib'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_document_contains_recorded_values(inputs):
    data = json.loads(Outline(build(inputs).read_text(encoding="utf-8")).texts("script")[0])
    arrays = gate_arrays(seed=1).readings["val"]
    reading = data["models"]["concise"]["readings"]["val"]
    spoken = [data["texts"][number][1] for number in data["passages"]["val"]]
    assert spoken == [visible(CHARACTERS.tokens[n])[1] for n in arrays.tokens]
    assert [data["lineBreak"], "line break"] in data["texts"]
    assert reading["surprise"][0] is None and reading["alternatives"][0] == []
    assert reading["surprise"][1:] == pytest.approx(arrays.surprise[1:].tolist(), rel=1e-3)
    alternatives = reading["alternatives"][7]
    expected = [visible(CHARACTERS.tokens[n])[0] for n in arrays.top_tokens[7]]
    assert [data["texts"][number][0] for number, _ in alternatives] == expected
    probabilities = arrays.top_probabilities[7].tolist()
    assert [p for _, p in alternatives] == pytest.approx(probabilities, rel=6e-3)
    update = np.frombuffer(base64.b64decode(reading["update"]), np.uint8).reshape(L, H)
    assert np.abs(update / 255 - arrays.Z).max() <= 1 / 510 + 1e-7
    assert data["models"]["concise"]["timeConstant"] == [3, 1, 2, 5, 4, None]


@pytest.mark.parametrize(
    "options",
    [
        {"length": 2, "columns": 1},
        {"seeds": [0]},
        {"vocabulary": WORDS},
        {"vocabulary": Vocabulary(("<unk>",)), "length": 3, "columns": 1},
        {"best_val": Best(epoch=2, step=18, perplexity=7.95), "best_bits": 3.0},
    ],
    ids=["two tokens", "one seed", "words", "one token", "validated"],
)
def test_small_and_word_level_experiments(tmp_path, options):
    outline = Outline(build(write_project(tmp_path / "p", **options)).read_text(encoding="utf-8"))
    text = " ".join(outline.texts("main"))
    assert ("±" in text) == ("seeds" not in options)
    assert ("bits per word" in text) == (options.get("vocabulary") is WORDS)
    assert ("Best epoch by validation 2 2 2" in text) == ("best_val" in options)
    assert ("scratch, at its best epoch \u2013 3.00" in text) == ("best_bits" in options)
    assert "nan" not in re.findall(r"\w+", text.lower())


def test_summary_without_baselines_and_best_epochs(inputs):
    models = {name: model_summary({"train": 1.0, "val": 2.0, "test": 3.0}) for name in VARIANTS}
    summary(models, {}).write(inputs / "analysis/summary.json")
    outline = Outline(build(inputs).read_text(encoding="utf-8"))
    sentences = outline.texts("li")[4:]  # after the contents
    assert len(sentences) == 2
    assert "every model is better than a blind guess" in sentences[0]
    assert "The models are not ranked" in sentences[1]
    assert "Baselines" not in outline.texts("tr") and "best epoch" not in " ".join(sentences)


# ------------------------------------------------------------------------------ other variants


def test_single_variant_is_reported(tmp_path):
    outline = Outline(build(write_project(tmp_path / "p", ["concise"])).read_text(encoding="utf-8"))
    assert outline.texts("h1") == ["Results of a GRU language model"]
    assert (
        "concise is PyTorch\u2019s nn.GRU, which applies the reset gate after the"
        in outline.texts("p")[0]
    )
    assert "in the textbook, on The Time Machine 1.0" in outline.texts("tr")
    text = " ".join(outline.texts("header") + outline.texts("main"))
    assert "scratch" not in text and "fused" not in text and "compared" not in text


def test_variant_without_gates_is_left_out_of_gate_sections(tmp_path):
    root = write_project(tmp_path / "p", ["lstm", "concise"])
    outline = Outline(build(root, ["lstm", "concise"]).read_text(encoding="utf-8"))
    assert outline.texts("h1") == ["Results of two recurrent language models"]
    text = outline.texts("p")[0]
    assert "A recurrent network reads" in text and "lstm is PyTorch\u2019s nn.LSTM" in text
    assert "Training perplexity 1.07 1.07" in outline.texts("tr")
    assert outline.texts("dt") == ["lstm", "concise"] * 2
    data = json.loads(outline.texts("script")[0])
    assert list(data["models"]) == ["concise"]
    models = [i for i in outline.attributes("input") if i.get("name") == "model"]
    assert [i["value"] for i in models] == ["concise"]
    alts = [image["alt"] for image in outline.attributes("img")]
    assert sum("Heat map" in alt for alt in alts) == 2 and len(alts) == 24


def test_no_reader_without_gates(tmp_path):
    page = build(write_project(tmp_path / "p", ["lstm"]), ["lstm"])
    outline = Outline(page.read_text(encoding="utf-8"))
    assert not outline.open
    assert outline.texts("h1") == ["Results of a recurrent language model"]
    assert "#read" not in {link["href"] for link in outline.attributes("a")}
    assert len(outline.texts("script")) == 1  # that of theme and pictures
    assert "GRU" not in " ".join(outline.texts("header"))
    assert len(outline.attributes("img")) == 14
    assert "in the textbook" not in " ".join(outline.texts("table"))


# ------------------------------------------------------------------- inputs that cannot be used

INPUTS = {
    "data/prepared/vocab.json": "prepare",
    "models/scratch/card.json": "evaluate@scratch",
    "analysis/summary.json": "analysis/dvc.yaml:summarise",
    "metrics/train/concise.json": "evaluate@concise",
    "metrics/evaluate/scratch.json": "evaluate@scratch",
    "analysis/uncertainty/fused.json": "evaluate@fused",
    "metrics/timing/fused.json": "evaluate@fused",
    "metrics/export/scratch.json": "analysis/dvc.yaml:export@scratch",
    "analysis/gates/concise.json": "analysis/dvc.yaml:gates@concise",
    "analysis/gates/fused.npz": "analysis/dvc.yaml:gates@fused",
    "samples/concise.txt": "sample@concise",
    "plots/speed.png": "plot",
    "analysis/plots/claim.png": "analysis/dvc.yaml:draw",
}


def failure(root):
    with pytest.raises(UserError) as caught, pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        main()
    assert not (root / "reports").exists()
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
def complete(inputs):
    """Return the project with all pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(inputs)
        write_pictures([figure.path for figure in figures(Inputs(["scratch", "concise", "fused"]))])
    return inputs


@pytest.mark.parametrize("path", INPUTS)
def test_missing_input_names_its_stage(complete, path):
    (complete / path).unlink()
    error = failure(complete)
    assert str(error) == f"{path} is missing"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        assert made_by(error.path) == f"dvc repro {INPUTS[path]}"


@pytest.mark.parametrize("path", INPUTS)
@pytest.mark.parametrize("content", [b"", b"\xff\xfenonsense", b'{"a": 1}', b"PK\3\4"])
def test_damaged_input_is_named(complete, path, content):
    (complete / path).write_bytes(content)
    assert str(failure(complete)).startswith(f"{path} is damaged (")


def test_passages_must_be_equal(complete):
    arrays = gate_arrays()
    reading = arrays.readings["train"]
    reading.tokens[:] = reading.tokens[::-1].copy()
    arrays.write(complete / "analysis/gates/fused.npz", CHARACTERS.fingerprint)
    assert "its train passage is not that of scratch" in str(failure(complete))


def test_summary_without_listed_variant_is_refused(complete):
    bits = {"train": 1.0, "val": 2.0, "test": 3.0}
    models = {"scratch": model_summary(bits), "fused": model_summary(bits)}
    summary(models, {}).write(complete / "analysis/summary.json")
    assert str(failure(complete)) == (
        "analysis/summary.json is damaged (models: it has no concise)"
    )


def test_results_of_other_variants_are_ignored(tmp_path):
    root = write_project(tmp_path / "p", ["concise", "fused"])
    for path in root.rglob("fused*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    (root / "models/fused/card.json").write_bytes(b"damaged")
    params = (root / "params.yaml").read_text(encoding="utf-8")
    (root / "params.yaml").write_text(params.replace("[concise, fused]", "[concise]"))
    assert "fused" not in build(root).read_text(encoding="utf-8")
