"""Baselines without a network (the unigram's tests are in test_perplexity)."""

import bz2
import json
import lzma
import math
import random
import shutil
import string

import numpy as np
import pytest
from conftest import PROJECT
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_lm.core.files import read_json
from gru_lm.data.prepared import Prepared
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation.baselines import COMPRESSORS, ORDERS, compressed, n_gram, uniform, unigram
from gru_lm.evaluation.n_grams import KneserNey
from stages import baseline

few = settings(deadline=None, max_examples=40)
NAMES = ("train", "val", "test")


def prepared(train, val, test, level="char"):
    """Return the splits and the vocabulary of three texts (lists of words at level "word")."""
    vocabulary = Vocabulary.build([*train, *val, *test], level)
    texts = zip(NAMES, (train, val, test), strict=True)
    return {name: vocabulary.encode_tokens(text) for name, text in texts}, vocabulary


def test_uniform_by_hand():
    splits = {name: np.zeros(n, np.uint8) for name, n in zip(NAMES, (9, 5, 2), strict=True)}
    result = uniform(splits, vocab_size=8)
    assert result == {
        "train": {"perplexity": 8.0, "bits_per_token": 3.0, "tokens": 8},
        "val": {"perplexity": 8.0, "bits_per_token": 3.0, "tokens": 4},
        "test": {"perplexity": 8.0, "bits_per_token": 3.0, "tokens": 1},
    }


# -------------------------------------------------------------------------------------- n-grams


def test_n_gram_by_hand():
    # The model of test_n_grams.test_order_2_by_hand: a b a c a b = 0 1 0 2 0 1, V = 4.
    splits = {
        "train": np.array([0, 1, 0, 2, 0, 1], np.uint8),
        "val": np.array([0, 2, 0], np.uint8),
        "test": np.array([3, 3], np.uint8),
    }
    result = n_gram(splits, vocab_size=4, order=2)
    assert list(result) == list(NAMES)
    assert result["test"] == pytest.approx({"perplexity": 8, "bits_per_token": 3, "tokens": 1})
    val = 7 / 24 * 11 / 16  # c after a, a after c
    assert result["val"]["perplexity"] == pytest.approx(val**-0.5, rel=1e-14)
    assert result["val"]["bits_per_token"] == pytest.approx(-math.log2(val) / 2, rel=1e-14)
    train = 11 / 24 * 11 / 16 * 7 / 24 * 11 / 16 * 11 / 24
    assert result["train"]["perplexity"] == pytest.approx(train**-0.2, rel=1e-14)
    assert [result[name]["tokens"] for name in NAMES] == [5, 2, 1]


@few
@given(st.lists(st.lists(st.integers(0, 4), min_size=2, max_size=40), min_size=3, max_size=3))
def test_n_grams_are_fitted_to_training_split(streams):
    splits = {name: np.array(s, np.uint8) for name, s in zip(NAMES, streams, strict=True)}
    for order in ORDERS:
        result = n_gram(splits, 5, order)
        model = KneserNey(streams[0], 5, order)
        for name, stream in zip(NAMES, streams, strict=True):
            p = [model.distribution(stream[:i])[stream[i]] for i in range(1, len(stream))]
            bits = -sum(map(math.log2, p)) / len(p)
            assert result[name]["bits_per_token"] == pytest.approx(bits, rel=1e-12, abs=1e-12)


# ---------------------------------------------------------------------------------- compressors

STORY = "it was a dark and stormy night; the rain fell in torrents, except at intervals. " * 20


def noise(length, seed):
    return "".join(random.Random(seed).choices(string.ascii_lowercase, k=length))


def test_compressors_by_file_size():
    train, val, test = STORY, noise(300, 1), "é" * 50
    splits, vocabulary = prepared(train, val, test)

    def xz(text):
        coder = lzma.LZMACompressor(preset=lzma.PRESET_EXTREME + 9)
        return len(coder.compress(text.encode()) + coder.flush())

    def bzip2(text):
        coder = bz2.BZ2Compressor(9)
        return len(coder.compress(text.encode()) + coder.flush())

    for name, size in (("xz", xz), ("bzip2", bzip2)):
        result = compressed(splits, vocabulary, name)
        assert [result[split]["tokens"] for split in NAMES] == [len(train), 300, 50]
        bits = {
            "train": 8 * size(train) / len(train),
            "val": 8 * (size(train + val) - size(train)) / 300,
            "test": 8 * (size(train + test) - size(train)) / 50,
        }
        for split in NAMES:
            assert result[split]["bits_per_token"] == pytest.approx(bits[split], rel=1e-14)
            assert result[split]["perplexity"] == pytest.approx(2 ** bits[split], rel=1e-12)


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_compressor_reads_training_split_first(compressor):
    text = noise(2000, 1)
    splits, vocabulary = prepared(text, text[500:1500], noise(1000, 2))
    result = compressed(splits, vocabulary, compressor)
    assert result["train"]["bits_per_token"] > math.log2(26)  # noise is incompressible
    assert result["test"]["bits_per_token"] > math.log2(26)
    assert result["val"]["bits_per_token"] < 3  # repeated noise is compressible


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_words_are_compressed_with_spaces(compressor):
    train, val, test = (text.split() for text in (STORY, "rain and rain", "a storm\n at night"))
    splits, vocabulary = prepared(train, val, test, "word")
    compress = COMPRESSORS[compressor]
    result = compressed(splits, vocabulary, compressor)
    alone = len(compress(" ".join(train).encode()))
    both = len(compress(" ".join([*train, "a", "storm", "at", "night"]).encode()))
    assert result["train"]["bits_per_token"] == pytest.approx(8 * alone / len(train))
    assert result["test"]["bits_per_token"] == pytest.approx(8 * (both - alone) / 4)


def test_negative_cost_is_zero():
    text = "abcabdababcabdababcabd"  # bzip2 needs one byte less than for the first 20
    assert len(bz2.compress(text.encode())) < len(bz2.compress(text[:20].encode()))
    result = compressed(*prepared(text[:20], text[20:], "cc"), "bzip2")
    assert result["val"] == {"perplexity": 1.0, "bits_per_token": 0.0, "tokens": 2}


@pytest.mark.parametrize("compressor", COMPRESSORS)
@settings(deadline=None, max_examples=12)
@given(
    st.lists(st.text(st.characters(codec="utf-8"), min_size=2, max_size=8), min_size=3, max_size=3)
)
def test_tiny_splits_are_scored(compressor, texts):
    result = compressed(*prepared(*texts), compressor)
    for split, text in zip(NAMES, texts, strict=True):
        assert result[split]["tokens"] == len(text)
        assert result[split]["bits_per_token"] >= 0
        assert result[split]["perplexity"] == 2 ** result[split]["bits_per_token"]


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_infinite_perplexity_is_none(compressor):
    splits, vocabulary = prepared(*([noise(3000, i), "a"] for i in range(3)), "word")
    result = compressed(splits, vocabulary, compressor)
    assert result["val"]["bits_per_token"] > 1024
    assert result["val"]["perplexity"] is None
    json.dumps(result, allow_nan=False)


# ------------------------------------------------------------------------------------ the stage


@pytest.mark.parametrize("level", ["char", "word"])
def test_stage_writes_all_baselines(level, tmp_path, monkeypatch):
    corpus = STORY.split() if level == "word" else STORY
    splits, vocabulary = prepared(corpus[:150], corpus[150:200], corpus[200:202], level)
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    Prepared.write(vocabulary, splits)
    baseline.main()
    size = len(vocabulary)
    expected = {"uniform": uniform(splits, size), "unigram": unigram(splits, size)}
    expected |= {f"{n}-gram": n_gram(splits, size, n) for n in (2, 3, 4, 5, 6)}
    expected |= {name: compressed(splits, vocabulary, name) for name in ("xz", "bzip2")}
    written = read_json(tmp_path / "analysis/baselines.json")
    assert written == expected
    assert list(written) == list(expected)
