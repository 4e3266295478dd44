"""Arguments outside their range: every public function refuses them in one line with the range."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gru_lm.core.errors import OutOfRange, UserError
from gru_lm.data.text import join, normalized_lines, tokenize
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation.baselines import compressed, n_gram, uniform, unigram
from gru_lm.evaluation.n_grams import KneserNey
from gru_lm.evaluation.perplexity import Score, evaluate
from gru_lm.evaluation.seeds import spread, summarise
from gru_lm.evaluation.uncertainty import CalibrationSums, Observations, UncertaintySums
from gru_lm.evaluation.words import WordReader
from gru_lm.generation.sampling import generate
from gru_lm.models.base import LanguageModel, build_model
from gru_lm.models.device import choose_device
from gru_lm.models.gates import Intervention
from gru_lm.preparation.settings import Split
from gru_lm.preparation.splits import split_places
from gru_lm.training.minibatches import (
    epoch_minibatches,
    random_minibatches,
    require_enough_tokens,
    sequential_minibatches,
)
from gru_lm.training.trainer import validate

VOCABULARY = Vocabulary(("<unk>", "a", "b"))
MODEL = build_model("scratch", 3, hidden_size=2)
TOKENS = torch.tensor([1, 2, 1, 2, 1])
ARRAY = TOKENS.numpy()
SPLITS = {"train": ARRAY, "val": ARRAY, "test": ARRAY}
GENERATOR = np.random.default_rng(0)


def calibrate(confidence, right):
    CalibrationSums().add(np.array(confidence), np.array(right))


def uncertain(tokens):
    sums = UncertaintySums(tokens, VOCABULARY)
    observed = Observations(sums.add)
    observed.add(torch.zeros(4, 3), TOKENS[1:])
    observed.end()
    sums.result()


def general_stepper():
    return LanguageModel.stepper(MODEL)


def splits(**changed):
    return SPLITS | {name: np.array(tokens) for name, tokens in changed.items()}


def numbered(*variants):
    """Return the id of each case, the function with the refused arguments."""
    return [pytest.param(*case, id=f"{number}-{case[1]}") for number, case in enumerate(variants)]


REFUSED = [
    # generation
    (lambda: generate(MODEL, VOCABULARY, "a", -1), "length = -1: must be at least 0"),
    *(
        (
            lambda t=t: generate(MODEL, VOCABULARY, "a", 1, t),
            f"temperature = {t}: must be greater than 0",
        )
        for t in (0.0, -1.0, -math.inf, math.nan)
    ),
    *(
        (
            lambda t=t, k=k: generate(MODEL, VOCABULARY, "a", 1, t, k),
            f"top_k = {k}: must be at least 1",
        )
        for t in (None, 1.0)
        for k in (0, -1, -3)
    ),
    # data
    (lambda: Vocabulary.build("ab", min_freq=-1), "min_freq = -1: must be at least 0"),
    (
        lambda: Vocabulary.from_counts({"a": 1}, reserved_tokens=["b"], max_tokens=2),
        "max_tokens = 2: must be greater than 2",
    ),
    (lambda: Vocabulary.build("ab", "byte"), "level = 'byte': must be one of char, word"),
    (lambda: Vocabulary(("<unk>",), "char", ""), "normalize = '': must be one of letters, none"),
    (lambda: VOCABULARY.decode([3]), "token number = 3: must be 0 to 2"),
    (lambda: VOCABULARY.decode([-1]), "token number = -1: must be 0 to 2"),
    (lambda: normalized_lines("a", "lower"), "normalize = 'lower': must be one of letters, none"),
    (lambda: tokenize("a", "lower", "char"), "normalize = 'lower': must be one of letters, none"),
    (lambda: tokenize("a", "none", "byte"), "level = 'byte': must be one of char, word"),
    (lambda: join(["a"], "byte"), "level = 'byte': must be one of char, word"),
    # preparation: Split itself refuses all but counts of 2 and more, and fractions from 0 to 1
    (
        lambda: split_places(0, Split(train=2, val=2, test=2)),
        "the corpus has 0 tokens, but prepare.split needs 6",
    ),
    (lambda: Split(train=1, val=2, test=2), "Input should be greater than or equal to 2"),
    (lambda: Split(train=1.0, val=0.1, test=0.1), "Input should be less than 1"),
    # evaluation
    (lambda: evaluate(MODEL, TOKENS, chunk=0), "chunk = 0: must be at least 1"),
    (lambda: evaluate(MODEL, TOKENS[:0]), "len(tokens) = 0: must be at least 2"),
    (lambda: evaluate(MODEL, TOKENS[:1]), "len(tokens) = 1: must be at least 2"),
    (lambda: evaluate(MODEL, TOKENS + 1), "a number in tokens = 3: must be 0 to 2"),
    (lambda: evaluate(MODEL, TOKENS - 2), "a number in tokens = -1: must be 0 to 2"),
    (lambda: Score(1.0, 0).as_metrics(), "tokens = 0: must be at least 1"),
    (lambda: uniform(SPLITS, 0), "vocab_size = 0: must be at least 1"),
    (lambda: uniform(splits(val=[1]), 3), "len(val) = 1: must be at least 2"),
    (lambda: unigram(SPLITS, 2), "a number in train = 2: must be 0 to 1"),
    (lambda: unigram(splits(test=[]), 3), "len(test) = 0: must be at least 2"),
    (lambda: n_gram(SPLITS, 3, 0), "order = 0: must be at least 1"),
    (lambda: n_gram(splits(val=[1]), 3, 2), "len(val) = 1: must be at least 2"),
    (lambda: compressed(SPLITS, VOCABULARY, "zip"), "compressor = 'zip': must be one of xz, bzip2"),
    (lambda: compressed(splits(val=[1]), VOCABULARY, "xz"), "len(val) = 1: must be at least 2"),
    (lambda: KneserNey([0, 1], 2, -1), "order = -1: must be at least 1"),
    (lambda: KneserNey([], 0, 1), "vocab_size = 0: must be at least 1"),
    (lambda: KneserNey([0, 2], 2, 1), "a number in tokens = 2: must be 0 to 1"),
    (lambda: KneserNey([0], 2, 1).distribution([2]), "a number in tokens = 2: must be 0 to 1"),
    (lambda: KneserNey([0], 2, 1).nats([0, -1]), "a number in tokens = -1: must be 0 to 1"),
    (lambda: summarise([]), "number_of_runs = 0: must be at least 1"),
    (lambda: spread([]), "number_of_values = 0: must be at least 1"),
    (lambda: CalibrationSums().result(), "number_of_predictions = 0: must be at least 1"),
    (lambda: uncertain(np.resize(ARRAY, 7)), "len(tokens) = 7: must be 5, as was observed"),
    (lambda: uncertain(ARRAY + 1), "a number in tokens = 3: must be 0 to 2"),
    (lambda: calibrate([], []), "number_of_predictions = 0: must be at least 1"),
    (lambda: calibrate([1.0, 1.0], [1.0]), "len(right) = 1: must be 2, as confidence has"),
    (lambda: calibrate([-0.1], [1.0]), "confidence = -0.1: must be at least 0"),
    (lambda: calibrate([math.nan], [1.0]), "confidence = nan: must be at least 0"),
    (
        lambda: WordReader(VOCABULARY).positions(ARRAY + 1),
        "a number in tokens = 3: must be 0 to 2",
    ),
    (lambda: WordReader(VOCABULARY).places(ARRAY - 2), "a number in tokens = -1: must be 0 to 2"),
    (lambda: WordReader(VOCABULARY).places(ARRAY[:0]), "len(tokens) = 0: must be at least 1"),
    # models
    *(
        (
            lambda v=v, s=s: build_model(v, **{"vocab_size": 3, "hidden_size": 2, **s}),
            f"{next(iter(s))} = {next(iter(s.values()))}: must be at least 1",
        )
        for v in ("scratch", "concise", "fused")
        for s in ({"vocab_size": 0}, {"vocab_size": -1}, {"hidden_size": 0}, {"hidden_size": -2})
    ),
    *(
        (
            lambda v=v: build_model(v, 3, hidden_size=2, reset="never"),
            "reset = 'never': must be 'before' or 'after'",
        )
        for v in ("scratch", "fused")
    ),
    (lambda: build_model("gru", 3, hidden_size=2), "concise, fused"),
    (lambda: MODEL.begin_state(0), "batch_size = 0: must be at least 1"),
    (lambda: MODEL.gates().begin_state(-1), "batch_size = -1: must be at least 1"),
    (lambda: MODEL.stepper().feed(3), "token = 3: must be 0 to 2"),
    (lambda: MODEL.stepper().feed(-1), "token = -1: must be 0 to 2"),
    (lambda: general_stepper().feed(3), "token = 3: must be 0 to 2"),
    (lambda: general_stepper().feed(-1), "token = -1: must be 0 to 2"),
    (lambda: choose_device("gpu"), "device = 'gpu': must be one of auto, cpu, cuda"),
    (
        lambda: Intervention("z", torch.zeros(2), torch.ones(2)),
        "signal = 'z': must be one of Z, R, H",
    ),
    # training
    (lambda: next(sequential_minibatches(TOKENS, 0, 1, 0)), "batch_size = 0: must be at least 1"),
    (lambda: next(sequential_minibatches(TOKENS, 1, 0, 0)), "num_steps = 0: must be at least 1"),
    (lambda: next(sequential_minibatches(TOKENS, 1, 1, -1)), "offset = -1: must be at least 0"),
    (
        lambda: next(random_minibatches(TOKENS, 1, 0, 0, GENERATOR)),
        "num_steps = 0: must be at least 1",
    ),
    (
        lambda: next(random_minibatches(TOKENS, 0, 1, 0, GENERATOR)),
        "batch_size = 0: must be at least 1",
    ),
    (
        lambda: epoch_minibatches(TOKENS, 1, -1, "random", 0, 1),
        "num_steps = -1: must be at least 1",
    ),
    (lambda: epoch_minibatches(TOKENS, 1, 1, "random", -1, 1), "seed = -1: must be at least 0"),
    (
        lambda: epoch_minibatches(TOKENS, 1, 1, "shuffled", 0, 1),
        "partition = 'shuffled': must be one of sequential, random",
    ),
    (lambda: require_enough_tokens(100, 0, 1), "batch_size = 0: must be at least 1"),
    (lambda: validate(MODEL, TOKENS, 0, 1), "batch_size = 0: must be at least 1"),
    (lambda: validate(MODEL, TOKENS, 1, 0), "num_steps = 0: must be at least 1"),
    (lambda: validate(MODEL, TOKENS[:1], 1, 1), "number_of_tokens = 1: must be at least 2"),
]


@pytest.mark.parametrize("call, message", numbered(*REFUSED))
def test_argument_out_of_range_is_refused(call, message):
    with pytest.raises((ValueError, UserError)) as caught:
        call()
    assert message in str(caught.value)


def test_out_of_range_is_value_error_and_one_line():
    error = OutOfRange("top_k", 0, "at least 1")
    assert isinstance(error, ValueError)
    assert isinstance(error, UserError)
    assert str(error) == "top_k = 0: must be at least 1"


@pytest.mark.parametrize(
    "call",
    [
        lambda: generate(MODEL, VOCABULARY, "a", 0, 1e-300, 1),
        lambda: generate(MODEL, VOCABULARY, "a", 3, math.inf, 99),
        lambda: KneserNey([], 1, 1).distribution([]),
        lambda: evaluate(MODEL, TOKENS[:2], chunk=1).as_metrics(),
        lambda: build_model("concise", 1, hidden_size=1),
        lambda: Vocabulary.build([], min_freq=0),
    ],
)
def test_ends_of_ranges_are_allowed(call):
    call()
