"""Byte pairs of a corpus: the merges that are learned, and the splits that they encode."""

import io
import itertools
import tempfile
import tracemalloc
from collections import Counter
from itertools import repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_lm.core.errors import UserError
from gru_lm.data.byte_pairs import words
from gru_lm.data.prepared import SPLITS, Prepared
from gru_lm.data.text import normalized_lines
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.preparation import byte_pairs as module
from gru_lm.preparation.byte_pairs import learn_merges
from gru_lm.preparation.corpus import Corpus
from gru_lm.preparation.settings import Prepare
from gru_lm.preparation.splits import prepare, split_places

few = settings(deadline=None, max_examples=60)
STORY = (
    "The traveller told the story of the machine. The machine, he said, had told another story "
    "then; the others thought that this was rather strange.\n"
)


def settings_of(vocab_size, split=(0.6, 0.2, 0.2), normalize="none", **changes):
    sizes = dict(zip(SPLITS, split, strict=True))
    given = {"normalize": normalize, "tokens": "bpe", "min_freq": 0, "reserved_tokens": []}
    return Prepare.model_validate({**given, "vocab_size": vocab_size, "split": sizes, **changes})


def write(text, settings, folder, size=1000):
    """Prepare ``text`` in pieces of ``size`` characters to ``folder``."""
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    corpus = Corpus(lambda: iter(pieces), settings.normalize, "bpe", io.BytesIO())
    return prepare(corpus, corpus.count(), settings, folder)


def learned(text, vocab_size, **changes):
    alphabet = Vocabulary.build(text, "bpe", **changes)
    return learn_merges([text], len(text), alphabet, vocab_size)


def test_each_merge_is_of_most_frequent_neighbours():
    merges = learned(STORY, 80)
    assert len(merges) > 20
    counts = Counter(map(tuple, words(STORY)))
    for merge in merges:
        pairs = Counter()
        for tokens, count in counts.items():
            for pair in itertools.pairwise(tokens):
                pairs[pair] += count
        assert pairs[merge] == max(pairs.values())
        following = Counter()
        for tokens, count in counts.items():
            joined, rest = [], list(tokens)
            while rest:
                both = tuple(rest[:2]) == merge
                joined.append(rest.pop(0) + (rest.pop(0) if both else ""))
            following[tuple(joined)] += count
        counts = following


def test_neighbours_that_occur_once_are_not_merged():
    assert learned("ab cd ab", 100) == [("a", "b")]
    assert learned("ab cd ef", 100) == []


def test_words_with_unknown_characters_are_left_out():
    assert learned("xab xab ba ba ba", 100, min_freq=3) == [(" ", "b"), (" b", "a")]


def test_long_text_is_sampled_at_equal_distances(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 6)
    blocks = ["aa aa ", "bb bb ", "cc cc ", "dd dd ", "ee ee "]
    text = "".join(blocks)
    for most, expected in ((30, "abcde"), (29, "ace"), (12, "ad"), (9, "ae")):
        monkeypatch.setattr(module, "LEARNED", most)
        for size in (1, 5, 6, 7, 30):
            pieces = [text[start : start + size] for start in range(0, 30, size)]
            alphabet = Vocabulary.build(text, "bpe")
            merges = learn_merges(pieces, len(text), alphabet, 100)
            assert {"".join(merge)[-1] for merge in merges} == set(expected)


def test_text_after_the_training_split_is_not_learned():
    text = "ab ab " + "cd cd "
    alphabet = Vocabulary.build(text, "bpe")
    for size in (1, 4, 12):
        pieces = [text[start : start + size] for start in range(0, 12, size)]
        assert learn_merges(pieces, 6, alphabet, 100)[0] == ("a", "b")
        assert not any("c" in "".join(one) for one in learn_merges(pieces, 6, alphabet, 100))


@pytest.mark.parametrize("size", [2, 7])
def test_vocabulary_without_place_for_merges_is_refused(tmp_path, size):
    with pytest.raises(UserError, match=rf"prepare\.vocab_size = {size}: must be over 7, the numb"):
        write("abcdef" * 9, settings_of(size), tmp_path)
    assert list(tmp_path.iterdir()) == []


@few
@given(
    st.text("abcdé \n.", min_size=30),
    st.sampled_from(["letters", "none"]),
    st.sampled_from(["all", "train"]),
    st.sampled_from([(15, 9, 6), (0.5, 0.2, 0.3)]),
    st.integers(0, 3),
    st.integers(12, 30),
    st.integers(1, 9),
)
def test_splits_follow_definition(
    tmp_path_factory, text, normalize, source, split, min_freq, vocab_size, size
):
    folder = tmp_path_factory.mktemp("prepared")
    given_settings = settings_of(vocab_size, split, normalize, vocabulary=source, min_freq=min_freq)
    whole = "".join(normalized_lines(text, normalize))
    try:
        places = split_places(len(whole), given_settings.split, "characters")
        parts = {name: whole[place] for name, place in places.items()}
        counted = parts["train"] if source == "train" else whole
        alphabet = Vocabulary.build(counted, "bpe", normalize, min_freq)
        merges = learn_merges([counted], len(counted), alphabet, vocab_size)
        expected = alphabet.with_merges(merges)
        splits = {
            name: expected.encode_tokens(expected.split(part)) for name, part in parts.items()
        }
        if min(map(len, splits.values())) < 2:
            raise UserError("at least 2 are needed")
        if not splits["train"].any():
            raise UserError("every token of the training split is <unk>")
    except UserError as error:
        with pytest.raises(UserError) as caught:
            write(text, given_settings, folder, size)
        assert str(error) in str(caught.value)
        return
    result = write(text, given_settings, folder, size)
    assert result.tokens == {name: len(numbers) for name, numbers in splits.items()}
    assert result.vocabulary == len(expected) <= vocab_size
    Prepared.write(expected, splits, by_definition := folder / "whole")
    for name in ("vocab.json", *(f"{split}.npy" for split in SPLITS)):
        assert (folder / name).read_bytes() == (by_definition / name).read_bytes()


def test_splits_have_text_of_character_splits(tmp_path):
    text = STORY * 3
    write(text, settings_of(60), tmp_path)
    prepared = Prepared(tmp_path)
    places = split_places(len(text), settings_of(60).split)
    for name, place in places.items():
        assert prepared.vocabulary.decode(prepared.tokens(name).tolist()) == text[place]


def test_same_text_gives_same_merges():
    runs = [learned(STORY, 90) for _ in range(5)]
    assert all(run == runs[0] for run in runs)


def test_vocabulary_is_loaded_with_its_merges(tmp_path):
    write(STORY, settings_of(60, reserved_tokens=["<pad>"]), tmp_path)
    loaded = Prepared(tmp_path).vocabulary
    assert loaded.tokens[:2] == ("<unk>", "<pad>")
    made = [left + right for left, right in loaded.merges]
    assert list(loaded.tokens[-len(made) :]) == made
    again = Vocabulary(loaded.tokens, "bpe", "none", loaded.merges)
    assert again == loaded and again.fingerprint == loaded.fingerprint
    without = Vocabulary(loaded.tokens, "bpe", "none", loaded.merges[:-1])
    assert without.fingerprint != loaded.fingerprint
    text = "the other story\nthen"
    assert loaded.decode(loaded.encode(text)) == text
    assert len(loaded.encode(text)) < len(text)


def test_memory_does_not_grow_with_text(monkeypatch):
    monkeypatch.setattr(module, "READ", 1 << 12)
    vocabulary = Vocabulary.build(STORY, "bpe").with_merges(learned(STORY, 60))
    peaks = []
    for number in (200, 1600):
        with tempfile.TemporaryFile() as scratch:
            tracemalloc.start()
            parts = repeat(("train", STORY), number)
            sizes, numbers = module.encode_splits(parts, vocabulary, scratch)
            total = sum(len(piece) for _, piece in numbers)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert total == sizes["train"] == len(vocabulary.split(STORY * number))
    assert peaks[1] < 1.3 * peaks[0]


def test_error_of_the_text_is_passed_on():
    """The library that learns calls back into Python for the text."""

    def texts():
        yield "ab ab "
        raise UserError("the text was changed while it was read")

    with pytest.raises(UserError, match="was changed while"):
        learn_merges(texts(), 100, Vocabulary(("<unk>", *"ab "), "bpe"), 20)
