"""The arrays of the gate study are read as they were written, and invalid ones are refused."""

import dataclasses

import numpy as np
import pytest
from examples import CHARACTERS, gate_arrays

from gru_lm.core.errors import DamagedFile, MissingFile
from gru_lm.core.files import read_arrays, write_arrays
from gru_lm.results.gates import GateArrays, write_no_arrays

OWNER = CHARACTERS.fingerprint


def read(path):
    return GateArrays.read(path, OWNER, len(CHARACTERS))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "fused.npz"
    gate_arrays().write(path, OWNER)
    return path


def test_round_trip(path, tmp_path):
    found = read(path)
    for split, reading in gate_arrays().readings.items():
        for part, array in dataclasses.asdict(reading).items():
            np.testing.assert_array_equal(getattr(found.readings[split], part), array)
    again = tmp_path / "again.npz"
    found.write(again, OWNER)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("val_Z", lambda a: a * 3, "a gate of val is not between 0 and 1"),
        ("val_R", lambda a: a * np.nan, "a gate of val is not between 0 and 1"),
        ("val_R", lambda a: a[:-1], "the arrays of val do not fit each other"),
        ("train_surprise", lambda a: a[:, None], "the arrays of train do not fit each other"),
        ("mean_R", lambda a: a[:-1], "the units' means differ in length"),
        ("time_constant", lambda a: -a, "a time constant is negative"),
        ("train_tokens", lambda a: a + 99, "a token of train is not in the vocabulary"),
        ("val_top_tokens", lambda a: a - 99, "a token of val is not in the vocabulary"),
        ("val_top_tokens", lambda a: a / 2, "val_top_tokens: the tokens must be whole numbers"),
        ("val_Z", lambda a: a + 0j, "val_Z has the type complex64, not a floating-point type"),
        ("val_R", lambda a: a > 0.5, "val_R has the type bool"),
        ("time_constant", lambda a: np.ones(a.shape, int), "time_constant has the type int64"),
        ("time_constant", lambda a: a * np.nan, "a time constant is negative"),
        ("train_surprise", lambda a: a.astype("U"), "train_surprise has the type <U"),
        ("train_surprise", lambda a: -1 - a, "a surprise of train is negative, infinite or NaN"),
        ("train_surprise", lambda a: a * np.inf, "a surprise of train is negative, infinite"),
        ("train_surprise", lambda a: a * np.nan, "a surprise of train is negative, infinite"),
        ("val_top_probabilities", lambda a: a + 5, "a probability of val is not between 0 and 1"),
        ("val_top_probabilities", lambda a: a * np.nan, "a probability of val is not between"),
        ("mean_Z", lambda a: a + 1, "a mean gate is not between 0 and 1"),
        ("mean_R", lambda a: a * np.nan, "a mean gate is not between 0 and 1"),
        ("mean_Z", lambda a: None, "it has no array 'mean_Z'"),
        ("mean_Z", lambda a: np.array([None]), "Object arrays cannot be loaded"),
    ],
)
def test_invalid_arrays_are_refused(path, name, change, why):
    arrays = dict(np.load(path))
    arrays[name] = change(arrays[name])
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
    with pytest.raises(DamagedFile) as caught:
        read(path)
    assert why in str(caught.value)


def test_extra_array_is_refused(path):
    arrays = read_arrays(path, OWNER)
    write_arrays(path, {**arrays, "mean_H": np.zeros(3)}, OWNER)
    with pytest.raises(DamagedFile, match="'mean_H' is not an array of the gate study"):
        read(path)


def test_variant_without_gates_has_no_arrays(path):
    write_no_arrays(path, OWNER)
    assert read_arrays(path, OWNER) == {}
    with pytest.raises(DamagedFile, match="it has no array"):
        read(path)


def test_arrays_of_another_vocabulary_are_refused(path, tmp_path):
    with pytest.raises(DamagedFile, match="belongs to other data"):
        GateArrays.read(path, "another", len(CHARACTERS))
    with pytest.raises(MissingFile):
        read(tmp_path / "none.npz")
