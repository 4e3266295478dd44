"""Run the stages on texts of all kinds. Each works or ends with one line that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gru_lm.data.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[2]
SPLIT = {"train": 60, "val": 20, "test": 20}
ENOUGH = sum(SPLIT.values())


@dataclass(frozen=True)
class Project:
    """A folder that contains only params.yaml and a corpus."""

    root: Path

    def stage(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"stages.{name}", *arguments],
            cwd=self.root,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
        )

    def succeed(self, name: str, *arguments: str) -> str:
        result = self.stage(name, *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "Traceback" not in result.stderr
        return result.stdout

    def fail(self, name: str, *arguments: str) -> str:
        """Run a stage that must fail and return its one line."""
        result = self.stage(name, *arguments)
        assert result.returncode == 1, result.stdout + result.stderr
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"{name}: error: ")
        return line

    def prepare(self) -> None:
        self.succeed("fetch")
        self.succeed("prepare")

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.load(self.root / "data/prepared/vocab.json")

    def split(self, name: str) -> str:
        """Return the decoded text of a split."""
        numbers = np.load(self.root / f"data/prepared/{name}.npy", allow_pickle=False)
        return self.vocabulary.decode(numbers.tolist())


def project(folder: Path, data: bytes, **prepare: Any) -> Project:
    """Make a project with the corpus ``data`` and the settings ``prepare``."""
    (folder / "corpora").mkdir(parents=True)
    (folder / "corpora/own.txt").write_bytes(data)
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["device"] = "cpu"
    params["corpora"]["own"] = {"path": "corpora/own.txt"}
    params["fetch"]["corpus"] = "own"
    params["prepare"] |= {"normalize": "none", "split": SPLIT} | prepare
    params["model"]["hidden_size"] = 4
    params["train"] |= {"epochs": 1, "batch_size": 2, "num_steps": 5}
    params["sample"] |= {"length": 5}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return Project(folder)


# ------------------------------------------------------------------------------- texts that work

CHINESE = "天地玄黃宇宙洪荒日月盈昃辰宿列張寒來暑往秋收冬藏閏餘成歲律呂調陽"
TEXTS = {
    "emoji": "a🙂b👩‍🚀c🇫🇷 ",
    "combining marks": unicodedata.normalize("NFD", "Ünïcödé ḗ ǭ ")
    + unicodedata.normalize("NFC", "Ünïcödé "),
    "right to left": "שלום עולם \u200fمرحبا بالعالم\u200e ",  # noqa: RUF001
    "chinese": CHINESE,
    "nul bytes": "a\0b\0\0c",
    "controls": "\x01\x02\t\x0b\x0c\x1b\x7f\x85 ",
    "no newline": "one line and no end ",
    "line separators": "a\u2028b\u2029c\x1cd\n",
    "spaces only": " ",
}


@pytest.mark.parametrize("name", TEXTS)
def test_characters_are_kept(name: str, tmp_path: Path) -> None:
    text = (TEXTS[name] * (ENOUGH // len(TEXTS[name]) + 1))[:ENOUGH]
    own = project(tmp_path / "own", text.encode())
    own.prepare()
    assert "".join(own.split(split) for split in SPLIT) == text
    assert set(own.vocabulary.tokens) == {"<unk>", *text}


@pytest.mark.parametrize("ending", ["\r\n", "\r"], ids=["crlf", "cr"])
def test_line_ends_become_newlines(ending: str, tmp_path: Path) -> None:
    own = project(tmp_path / "own", ("one two" + ending).encode() * ENOUGH)
    own.prepare()
    assert own.split("train").startswith("one two\none two\n")
    assert "\r" not in own.vocabulary.tokens


def test_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    own = project(tmp_path / "own", b"\xef\xbb\xbf" + b"mark " * ENOUGH)
    own.prepare()
    assert own.split("train").startswith("mark mark")
    assert "\ufeff" not in own.vocabulary.tokens


def test_text_of_many_scripts_trains_and_samples(tmp_path: Path) -> None:
    text = "".join(TEXTS.values())
    size = 10 * len(text)
    own = project(tmp_path / "own", text.encode() * 12, split={"train": size, "val": 9, "test": 9})
    own.prepare()
    own.succeed("train", "--variant", "concise")
    own.succeed("evaluate", "--variant", "concise")
    for prefix in ("🙂", "שלום", "天地", "e\u0301"):
        printed = own.succeed("sample", "--variant", "concise", "--prefix", prefix)
        assert printed.startswith(prefix)


def test_letters_rule_reports_dropped_letters(tmp_path: Path) -> None:
    """The message explains the missing letters in samples of German."""
    text = "Größe, Übermut und Straße müssen für jeden Bürger schön bleiben. ".encode()
    own = project(tmp_path / "own", text * 9, normalize="letters")
    own.succeed("fetch")
    printed = own.succeed("prepare")
    assert "drops 15.1% of the letters (such as üößÜ): set it to none to keep them" in printed


@pytest.mark.timeout(600)
def test_single_line_of_100_megabytes(tmp_path: Path) -> None:
    block = b"the quick brown fox jumps over the lazy dog "
    own = project(tmp_path / "own", block * (100_000_000 // len(block)))
    own.prepare()
    assert own.split("train").startswith(block.decode())
    assert len(own.vocabulary) == 28


# --------------------------------------------------------------------- texts that say what is wrong


@pytest.mark.parametrize(
    ("data", "prepare", "words"),
    [
        (b"", {}, ["corpora.own.path", "contains nothing"]),
        (b"a", {}, ["1 tokens", "needs 100", "longer corpus"]),
        (b"a" * (ENOUGH - 1), {}, ["99 tokens", "needs 100"]),
        (b"\xef\xbb\xbf", {}, ["corpus.txt has no tokens", "another corpus"]),
        (
            "12.3 & 45!\n天地\n".encode() * 99,
            {"normalize": "letters"},
            ["no token", "normalize = none"],
        ),
        (b"short\n" * 3, {"split": {"train": 0.8, "val": 0.1, "test": 0.1}}, []),
        (
            b"caf\xe9 " * 99,
            {},
            ["not UTF-8", "0xe9 at offset 3", "in corpora.<name>.encoding in params.yaml", "iconv"],
        ),
        (
            "utf sixteen ".encode("utf-16") * 99,
            {},
            ["is UTF-16, not UTF-8", "corpora.<name>.encoding: utf-16 in", "iconv -f UTF-16"],
        ),
        (
            "the moon ".encode("utf-16-le") * 99,
            {},
            ["is UTF-16LE, not", "corpora.<name>.encoding: utf-16le in", "iconv -f UTF-16LE -t"],
        ),
    ],
    ids=[
        "empty",
        "one-character",
        "one-too-few",
        "only-a-bom",
        "no-letters",
        "too-short-for-a-minibatch",
        "latin-1",
        "utf-16",
        "utf-16 without a byte order mark",
    ],
)
def test_unusable_texts_give_advice(
    data: bytes, prepare: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    own = project(tmp_path / "own", data, **prepare)
    if not data:
        line = own.fail("fetch")
    elif words:
        own.succeed("fetch")
        line = own.fail("prepare")
    else:
        own.prepare()
        line = own.fail("train", "--variant", "scratch")
        words = ["the training split has 14 tokens", "minibatch", "needs 16", "prepare.split.train"]
    for word in words:
        assert word in line
    for folder in ("live", "training", "models"):
        assert not (own.root / folder).exists()
    assert words[0].startswith("the training") or not (own.root / "data/prepared").exists()
