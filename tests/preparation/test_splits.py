"""The splits, and the arrays they are kept in."""

import hashlib
import io
import math
import stat
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_lm.core.errors import UserError
from gru_lm.core.params import Split
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.preparation.splits import load_split, save_splits, split_path, split_tokens

few = settings(deadline=None, max_examples=60)
sizes = st.integers(2, 40)


@few
@given(sizes, sizes, sizes, st.integers(0, 30))
def test_counts_cut_consecutive_pieces_from_the_start(train, val, test, rest):
    tokens = np.arange(train + val + test + rest, dtype=np.uint16)
    splits = split_tokens(tokens, Split(train=train, val=val, test=test))
    assert list(splits) == ["train", "val", "test"]
    assert [len(piece) for piece in splits.values()] == [train, val, test]
    joined = np.concatenate(list(splits.values()))
    assert joined.tolist() == list(range(train + val + test))
    assert joined.dtype == np.uint16


@few
@given(st.integers(30, 5000), st.lists(st.integers(1, 98), min_size=3, max_size=3))
def test_fractions_are_rounded_down(length, percents):
    if sum(percents) > 100 or min(percents) * length < 200:
        return
    train, val, test = (percent / 100 for percent in percents)
    splits = split_tokens(np.arange(length), Split(train=train, val=val, test=test))
    # The exact binary value of each fraction decides, give or take a product that is rounded.
    for name, percent in zip(splits, percents, strict=True):
        exact = Fraction(percent, 100) * length
        assert len(splits[name]) in {math.floor(exact), math.ceil(exact) - 1}
    assert np.concatenate(list(splits.values())).tolist() == list(
        range(sum(map(len, splits.values())))
    )


def test_fractions_of_a_known_corpus():
    splits = split_tokens(np.arange(1003), Split(train=0.5, val=0.25, test=0.25))
    assert [len(piece) for piece in splits.values()] == [501, 250, 250]
    assert splits["test"][0] == 751


def test_a_fraction_that_is_a_whole_number_of_tokens_gives_that_number():
    splits = split_tokens(np.arange(100), Split(train=0.29, val=0.57, test=0.14))
    assert [len(piece) for piece in splits.values()] == [29, 57, 14]


def test_tiny_fractions_give_the_two_tokens_that_scoring_needs():
    splits = split_tokens(np.arange(100), Split(train=0.5, val=0.001, test=0.001))
    assert [len(piece) for piece in splits.values()] == [50, 2, 2]


@pytest.mark.parametrize("length", [0, 5, 2599])
def test_too_short_a_corpus_names_both_numbers(length):
    with pytest.raises(UserError) as caught:
        split_tokens(np.zeros(length, np.uint8), Split(train=2000, val=500, test=100))
    message = str(caught.value)
    assert f"the corpus has {length:,} tokens" in message
    assert "prepare.split needs 2,600" in message
    assert "train 2,000" in message
    split_tokens(np.zeros(2600, np.uint8), Split(train=2000, val=500, test=100))


def test_too_short_a_corpus_for_fractions():
    with pytest.raises(UserError, match=r"has 5 tokens, but prepare\.split needs 6"):
        split_tokens(np.zeros(5, np.uint8), Split(train=0.4, val=0.3, test=0.3))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_arrays_come_back_memory_mapped_with_their_type(tmp_path, dtype):
    splits = {"train": np.arange(50, dtype=dtype), "val": np.array([3, 1, 2], dtype=dtype)}
    save_splits(tmp_path / "prepared", splits, numbered(50))
    for name, tokens in splits.items():
        loaded = load_split(tmp_path / "prepared", name, numbered(50))
        assert isinstance(loaded, np.memmap)
        assert loaded.dtype == dtype
        assert loaded.tolist() == tokens.tolist()
        with pytest.raises(ValueError):
            loaded[0] = 1
    names = sorted(path.name for path in (tmp_path / "prepared").iterdir())
    assert names == ["train.npy", "val.npy"]


def numbered(size):
    """A vocabulary of so many tokens."""
    return Vocabulary(("<unk>", *(f"{number}." for number in range(1, size))))


def checksum(content, vocabulary):
    return hashlib.sha256(content + vocabulary.fingerprint.encode()).digest()


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz(array):
    buffer = io.BytesIO()
    np.savez(buffer, tokens=array)
    return buffer.getvalue()


WHOLE = npy(np.arange(10, dtype=np.uint8))
NO_TOKENS = {
    "empty": b"",
    "text": b"1 2 3 4",
    "magic-only": WHOLE[:6],
    "cut-header": WHOLE[:40],
    "cut-data": WHOLE[:-1],
    "no-data": WHOLE[:128],
    "shape-huge": WHOLE.replace(b"(10,), }", b"(1" + b"0" * 14 + b",), }", 1),
    "shape-beyond-64-bits": WHOLE.replace(b"(10,), }", b"(1" + b"0" * 25 + b",), }", 1),
    "version-unknown": WHOLE[:6] + b"\x09\x00" + WHOLE[8:],
    "header-not-python": WHOLE.replace(b"{'descr'", b"{[descr'", 1),
    "pickle": npy(np.array([1, "a"], dtype=object), allow_pickle=True),
    "bare-pickle": b"\x80\x04K\x05.",
    "zip": npz(np.arange(10, dtype=np.uint8)),
    "cut-zip": npz(np.arange(10, dtype=np.uint8))[:40],
    "two-dimensional": npy(np.zeros((4, 4), np.uint8)),
    "scalar": npy(np.uint8(3)),
    "signed": npy(np.arange(10)),
    "floats": npy(np.zeros(10)),
    "texts": npy(np.array(["a", "b"])),
    "one-token": npy(np.zeros(1, np.uint8)),
    "no-token": npy(np.zeros(0, np.uint8)),
    "number-too-large": npy(np.array([1, 10, 2], np.uint8)),
}
CHECKSUM = checksum(WHOLE, numbered(10))
EDITED = {
    "no-checksum": WHOLE,
    "checksum-of-another": WHOLE + checksum(WHOLE[:-1], numbered(10)),
    "checksum-without-vocabulary": WHOLE + hashlib.sha256(WHOLE).digest(),
    "another-vocabulary": WHOLE + checksum(WHOLE, numbered(11)),
    "token-edited": WHOLE[:-1] + b"\x01" + CHECKSUM,
    "checksum-cut": WHOLE + CHECKSUM[:-1],
    "checksum-twice": WHOLE + 2 * CHECKSUM,
}
DAMAGED = NO_TOKENS | EDITED


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_arrays_say_how_to_mend_them(tmp_path, content):
    path = split_path(tmp_path, "train")
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_split(tmp_path, "train", numbered(10))
    message = str(caught.value)
    assert message.startswith(f"{path} is damaged")
    assert "dvc repro prepare" in message


def test_the_whole_array_of_the_table_above_loads(tmp_path):
    split_path(tmp_path, "train").write_bytes(WHOLE + CHECKSUM)
    assert load_split(tmp_path, "train", numbered(10)).tolist() == list(range(10))


@pytest.mark.parametrize("content", NO_TOKENS.values(), ids=NO_TOKENS.keys())
def test_a_right_checksum_makes_no_tokens_of_anything_else(tmp_path, content):
    split_path(tmp_path, "train").write_bytes(content + checksum(content, numbered(10)))
    with pytest.raises(UserError, match="is damaged"):
        load_split(tmp_path, "train", numbered(10))


def test_any_program_can_read_an_array(tmp_path):
    save_splits(tmp_path, {"train": np.array([3, 1, 2], np.uint8)}, numbered(10))
    assert np.load(tmp_path / "train.npy", allow_pickle=False).tolist() == [3, 1, 2]


def test_a_missing_array_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match=r"val\.npy is missing.*dvc repro prepare"):
        load_split(tmp_path, "val", numbered(10))


def test_arrays_have_the_permissions_of_any_new_file(tmp_path):
    save_splits(tmp_path, {"train": np.zeros(3, np.uint8)}, numbered(10))
    (tmp_path / "plain").write_bytes(b"")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("train.npy", "plain")}
    assert len(modes) == 1
