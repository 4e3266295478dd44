"""Words and byte pairs go through all stages, from the text to the page."""

import importlib
import json
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT

from gru_lm.data.prepared import SPLITS, Prepared

pytestmark = pytest.mark.usefixtures("process_wide_settings")

STAGES = (
    "params fetch prepare train@ replicate@ evaluate@ sample@ plot baseline summarise gates@ "
    "export@ draw report"
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a function that runs all stages in this process, with changed params ``prepare``."""
    shutil.copytree(PROJECT / "corpora", tmp_path / "corpora")
    (tmp_path / "data/raw").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRU_LM_CORPUS_MIRROR", raising=False)

    def run(**prepare):
        params = yaml.safe_load((PROJECT / "params.yaml").read_text("utf-8"))
        params["variants"], params["device"] = ["scratch"], "cpu"
        params["fetch"]["corpus"] = "sample"
        params["prepare"] |= prepare
        params["model"]["hidden_size"] = 8
        params["train"] |= {"epochs": 2, "batch_size": 4, "num_steps": 5, "validate_every": 1}
        params["evaluate"]["block"] = 20
        params["replicate"]["seeds"] = [1]
        params["gate_study"]["length"] = 30
        params["sample"]["prefixes"] = ["the path"]
        Path("params.yaml").write_text(yaml.safe_dump(params), "utf-8")
        for stage in STAGES.split():
            name, of_variant, _ = stage.partition("@")
            options = ["--variant", "scratch"] if of_variant else []
            options += ["--seed", "1"] if name == "replicate" else []
            monkeypatch.setattr("sys.argv", [name, *options])
            importlib.import_module(f"stages.{name}").main()
        return Prepared().vocabulary

    return run


SPLIT = {"train": 0.6, "val": 0.2, "test": 0.2}


def test_byte_pairs_in_all_stages(project):
    vocabulary = project(tokens="bpe", normalize="none", vocab_size=150, split=SPLIT)
    assert len(vocabulary) == 150
    scores = json.loads(Path("metrics/evaluate/scratch.json").read_text("utf-8"))
    for of in (scores, scores["blocks"]):
        for split in SPLITS:
            tokens = Prepared().tokens(split)[1:].tolist()
            one = of[split]
            assert one["characters"] == len(vocabulary.decode(tokens)) > len(tokens)
            assert one["bits_per_character"] == pytest.approx(
                one["bits_per_token"] * len(tokens) / one["characters"]
            )
    replicate = json.loads(Path("analysis/replicate/scratch-1.json").read_text("utf-8"))
    assert replicate["scores"]["val"]["characters"] == scores["val"]["characters"]
    assert Path("samples/scratch.txt").read_text("utf-8").count("  the path") == 4
    page = Path("reports/index.html").read_text("utf-8")
    assert "characters on average, so scratch takes" in page
    assert "one token at a time" in page


def test_words_in_all_stages(project):
    vocabulary = project(tokens="word", split=SPLIT, min_freq=2)
    assert "the" in vocabulary.tokens
    scores = json.loads(Path("metrics/evaluate/scratch.json").read_text("utf-8"))
    assert "characters" not in scores["val"]
    page = Path("reports/index.html").read_text("utf-8")
    assert "one word at a time" in page and "characters on average" not in page
