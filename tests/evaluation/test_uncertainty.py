"""Calibration and surprise by group agree with values by hand, loops and the split's score."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation.perplexity import evaluate
from gru_lm.evaluation.uncertainty import (
    BINS,
    CLASSES,
    POSITIONS,
    CalibrationSums,
    Observations,
    UncertaintySums,
    character_classes,
)
from gru_lm.evaluation.words import WordReader
from gru_lm.models.concise.model import ConciseGRU
from gru_lm.models.scratch.model import ScratchGRU

TEXT = "It's  “two” words,\n3\tnaïve\vжил!"


def random_model(vocab_size, kind=ScratchGRU, scale=0.8):
    torch.manual_seed(2)
    model = kind(vocab_size, 5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, scale)
    return model


def measure(model, tokens, vocabulary, chunk=1000, block=1 << 20):
    sums = UncertaintySums(tokens, vocabulary)
    observed = Observations(sums.add, block=block)
    score = evaluate(model, tokens, chunk, observed.add)
    observed.end()
    return score, sums.result()


def observe(*predictions):
    """Return what was observed of pairs of logits and targets."""
    found = []
    observed = Observations(found.append)
    for logits, targets in predictions:
        observed.add(logits, targets)
    observed.end()
    [one] = found
    return one


def calibration(confidence, right, pieces=1):
    sums = CalibrationSums()
    for part in zip(*(np.array_split(of, pieces) for of in (confidence, right)), strict=True):
        sums.add(*part)
    return sums.result()


def characters(text):
    vocabulary = Vocabulary.build(text)
    return vocabulary, vocabulary.encode(text)


def names(indices, of):
    return [of[index] for index in indices]


# --------------------------------------------------------------------------------- predictions


def test_observations_of_known_logits():
    even = torch.zeros(1, 4)  # 1/4 each
    skewed = torch.log(torch.tensor([[0.5, 0.25, 0.125, 0.125]]))
    certain = torch.tensor([[0.0, -math.inf, 0.0, -math.inf]])  # 1/2 each of two
    found = observe((torch.cat([even, skewed]), torch.tensor([3, 0])), (certain, torch.tensor([2])))
    assert found.surprise / math.log(2) == pytest.approx([2, 1, 1])
    assert found.entropy / math.log(2) == pytest.approx([2, 1.75, 1])
    assert found.confidence == pytest.approx([0.25, 0.5, 0.5])
    assert found.right.tolist()[1] == 1  # with ties, either token may be the top prediction


@pytest.mark.parametrize("kind", [ScratchGRU, ConciseGRU])
def test_observations_equal_stepwise_predictions(kind):
    vocabulary, tokens = characters(TEXT)
    model = random_model(len(vocabulary), kind).double()
    _, measured = measure(model, tokens, vocabulary, chunk=7)
    state, confidence, right, entropy = model.begin_state(1), [], [], []
    for token, following in pairwise(tokens):
        with torch.no_grad():
            logits, state = model(torch.tensor([[int(token)]]), state)
        probs = logits[0, 0].softmax(0).tolist()
        confidence.append(max(probs))
        right.append(float(probs.index(max(probs)) == following))
        entropy.append(-sum(p * math.log2(p) for p in probs))
    assert measured["calibration"]["confidence"] == pytest.approx(np.mean(confidence), rel=1e-9)
    assert measured["calibration"]["accuracy"] == pytest.approx(np.mean(right), rel=1e-9)
    assert measured["overall"]["entropy_bits"] == pytest.approx(np.mean(entropy), rel=1e-9)


def test_observer_does_not_change_score():
    vocabulary, tokens = characters(TEXT * 40)
    model = random_model(len(vocabulary))
    stream = torch.from_numpy(tokens.astype("int64"))
    for chunk in (1, 100, 1000):
        assert measure(model, tokens, vocabulary, chunk)[0] == evaluate(model, stream, chunk)


def test_zero_weights_have_uniform_confidence():
    vocabulary, tokens = characters("abcdefg" * 5)
    model = random_model(len(vocabulary), scale=0)
    _, measured = measure(model, tokens, vocabulary)
    size = len(vocabulary)
    assert measured["calibration"]["confidence"] == pytest.approx(1 / size)
    for group in (measured["overall"], *measured["position_in_word"].values()):
        assert group["perplexity"] == pytest.approx(size)
        assert group["entropy_bits"] == pytest.approx(math.log2(size))


# --------------------------------------------------------------------------------- calibration


def test_calibration_by_hand():
    # (0, 1/15]: one of 0.05, wrong. (7/15, 8/15]: 0.5 right and 0.5 wrong. (14/15, 1]: 0.96 wrong.
    confidence, right = np.array([0.5, 0.05, 0.96, 0.5]), np.array([1.0, 0.0, 0.0, 0.0])
    result = calibration(confidence, right)
    assert result["accuracy"] == pytest.approx(0.25)
    assert result["confidence"] == pytest.approx(2.01 / 4)
    assert result["ece"] == pytest.approx((0.05 + 0.96) / 4)  # the two of 0.5 cancel out
    bins = result["bins"]
    assert [entry["count"] for entry in bins] == [1, *[0] * 6, 2, *[0] * 6, 1]
    assert bins[7] == pytest.approx(
        {"low": 7 / 15, "high": 8 / 15, "count": 2, "confidence": 0.5, "accuracy": 0.5}
    )
    assert bins[3]["confidence"] is None and bins[3]["accuracy"] is None
    assert (bins[0]["low"], bins[-1]["high"]) == (0.0, 1.0)


def test_bin_includes_its_upper_edge():
    edges = np.linspace(0, 1, BINS + 1)
    counts = [entry["count"] for entry in calibration(edges, np.ones(BINS + 1))["bins"]]
    assert counts == [2, *[1] * 14]  # 0 has no bin of its own
    rounded_up = calibration(np.array([1 + 1e-15]), np.ones(1))
    assert rounded_up["bins"][-1]["count"] == 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(1e-6, 1), st.booleans()), min_size=1, max_size=80))
def test_calibration_equals_a_loop(predictions):
    confidence = np.array([probability for probability, _ in predictions])
    right = np.array([float(is_right) for _, is_right in predictions])
    result = calibration(confidence, right, pieces=min(3, len(right)))
    ece = 0.0
    for entry in result["bins"]:
        inside = (confidence > entry["low"]) & (confidence <= entry["high"])
        assert entry["count"] == inside.sum()
        if inside.any():
            assert entry["confidence"] == pytest.approx(confidence[inside].mean())
            assert entry["accuracy"] == pytest.approx(right[inside].mean())
            gap = abs(right[inside].mean() - confidence[inside].mean())
            ece += inside.mean() * gap
    assert result["ece"] == pytest.approx(ece, abs=1e-12)
    assert result["ece"] >= abs(result["accuracy"] - result["confidence"]) - 1e-12


def test_true_probabilities_have_no_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0, 1, 200_000)
    right = (rng.uniform(0, 1, 200_000) < confidence).astype(float)
    assert calibration(confidence, right)["ece"] < 0.01
    assert calibration(confidence, np.zeros(200_000))["ece"] == pytest.approx(0.5, abs=0.01)


# -------------------------------------------------------------------------------------- groups


def test_positions_in_known_text():
    vocabulary, tokens = characters(TEXT)
    positions = names(WordReader(vocabulary).positions(tokens), POSITIONS)
    expected = [
        ("It's", ["1", "2", "other", "3"]),  # the apostrophe is not a letter
        ("  ", ["end", "other"]),
        ("“two”", ["other", "1", "2", "3", "other"]),
        (" ", ["end"]),
        ("words,", ["1", "2", "3", "4", "5", "other"]),
        ("\n", ["end"]),
        ("3", ["1"]),
        ("\t", ["end"]),
        ("naïve", ["1", "2", "3", "4", "5"]),
        ("\v", ["end"]),
        ("жил!", ["1", "2", "3", "other"]),
    ]
    assert "".join(part for part, _ in expected) == TEXT
    assert positions == [position for _, part in expected for position in part]


def test_sixth_and_later_letters_are_one_group():
    vocabulary, tokens = characters(" abcdefgh i")
    assert names(WordReader(vocabulary).positions(tokens), POSITIONS) == [
        *("other", "1", "2", "3", "4", "5", "6+", "6+", "6+", "end", "1")
    ]


def test_multi_character_tokens_have_no_position():
    vocabulary = Vocabulary.build("aab ", min_freq=2, reserved_tokens=["<eos>"])
    tokens = vocabulary.encode_tokens(["a", "b", "a", " ", "<eos>", "a"])  # b and space: <unk>
    assert names(WordReader(vocabulary).positions(tokens), POSITIONS) == [
        *("1", "other", "2", "other", "other", "3")
    ]
    assert names(character_classes(vocabulary), CLASSES) == ["other", "other", "vowel"]


def test_classes_of_known_characters():
    known = {
        "vowel": "aeiouAEIOUéÜ",
        "consonant": "bcyzBñÇ",
        "letter": "жßβ語",
        "digit": "07²٣",
        "space": " \t\u00a0",
        "newline": "\n",
        "punctuation": ".,;!“—-$+",
        "other": "\x00\u200b",
    }
    for name, text in known.items():
        kinds = names(character_classes(Vocabulary.build(text)), CLASSES)
        assert kinds == ["other", *[name] * len(text)], name  # <unk> comes first


@pytest.mark.parametrize(
    "text",
    [TEXT * 20, "ab", "a b", "  ", "oneword", "\n\n\n", "x" * 1500],
    ids=["mixed", "two characters", "one space", "spaces only", "one word", "lines", "chunks"],
)
def test_groups_partition_tokens_and_score(text):
    vocabulary, tokens = characters(text)
    score, measured = measure(random_model(len(vocabulary)), tokens, vocabulary)
    whole = score.as_metrics()
    assert measured["overall"]["perplexity"] == pytest.approx(whole["perplexity"], rel=1e-9)
    assert measured["overall"]["tokens"] == whole["tokens"] == len(text) - 1
    for kind in ("position_in_word", "character_class"):
        groups = measured[kind].values()
        assert sum(group["tokens"] for group in groups) == len(text) - 1
        assert sum(group["share"] for group in groups) == pytest.approx(1, rel=1e-12)
        bits = sum(group["share"] * group["bits_per_token"] for group in groups)
        assert 2**bits == pytest.approx(whole["perplexity"], rel=1e-9)
        product = math.prod(group["perplexity"] ** group["share"] for group in groups)
        assert product == pytest.approx(whole["perplexity"], rel=1e-9)
        entropy = sum(group["share"] * group["entropy_bits"] for group in groups)
        assert entropy == pytest.approx(measured["overall"]["entropy_bits"], rel=1e-9)
    json.dumps(measured, allow_nan=False)


def test_group_is_mean_over_its_tokens():
    vocabulary, tokens = characters("to be or not to be that is the question")
    model = random_model(len(vocabulary))
    predictions = []
    evaluate(model, tokens, observe=lambda *found: predictions.append(found))
    found = observe(*predictions)
    spaces = [place for place, token in enumerate(vocabulary.decode(tokens)[1:]) if token == " "]
    _, measured = measure(model, tokens, vocabulary)
    for group in (measured["position_in_word"]["end"], measured["character_class"]["space"]):
        assert group["tokens"] == len(spaces) == 9
        assert group["perplexity"] == pytest.approx(math.exp(found.surprise[spaces].mean()))
        assert group["entropy_bits"] == pytest.approx(found.entropy[spaces].mean() / math.log(2))


def test_blocks_have_the_figures_of_the_whole():
    vocabulary, tokens = characters(TEXT * 20)
    model = random_model(len(vocabulary))
    _, whole = measure(model, tokens, vocabulary, chunk=10)
    _, blocks = measure(model, tokens, vocabulary, chunk=10, block=30)

    def compare(one, other):
        assert type(one) is type(other)
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            for key in one:
                compare(one[key], other[key])
        elif isinstance(one, list):
            for pair in zip(one, other, strict=True):
                compare(*pair)
        else:
            assert one == (pytest.approx(other, rel=1e-12) if isinstance(one, float) else other)

    compare(whole, blocks)


def test_word_level_has_no_groups():
    text = "to be or not to be that is the question"
    vocabulary = Vocabulary.build(text.split(), level="word")
    tokens = vocabulary.encode(text)
    score, measured = measure(random_model(len(vocabulary)), tokens, vocabulary)
    assert measured["position_in_word"] is None and measured["character_class"] is None
    assert measured["overall"]["perplexity"] == pytest.approx(score.as_metrics()["perplexity"])
    assert sum(entry["count"] for entry in measured["calibration"]["bins"]) == len(tokens) - 1


def test_group_with_infinite_perplexity_is_none():
    vocabulary, tokens = characters("ab" * 500 + " ")
    logits = torch.zeros(1000, len(vocabulary))
    logits[:, int(tokens[-1])] = -1e4  # the model gives the last character probability 0
    sums = UncertaintySums(tokens, vocabulary)
    sums.add(observe((logits, torch.from_numpy(tokens[1:].astype("int64")))))
    measured = sums.result()
    assert measured["character_class"]["vowel"]["perplexity"] == pytest.approx(3)  # a, b, <unk>
    assert measured["character_class"]["space"]["perplexity"] is None
    assert measured["character_class"]["space"]["bits_per_token"] > 1e4
    assert measured["overall"]["perplexity"] == pytest.approx(3 * math.exp(1e4 / 1000))
