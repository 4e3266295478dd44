"""Samples are read as they were written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gru_lm.core.errors import DamagedFile, MissingFile
from gru_lm.results.samples import (
    format_samples,
    heading,
    parse_samples,
    read_samples,
    write_samples,
)

TEXTS = st.lists(st.text(), min_size=1, max_size=3)
HEADINGS = st.sampled_from([heading(t) for t in (None, 0.5, 1.0, 1e-6)])


@given(st.dictionaries(HEADINGS, TEXTS, min_size=1))
def test_texts_round_trip(samples):
    assert parse_samples(format_samples(samples)) == samples


def test_file_format(tmp_path):
    path = tmp_path / "x.txt"
    write_samples(path, {heading(None): ["a b", "c\n d"], heading(1.0): ["greedy"]})
    assert path.read_text(encoding="utf-8") == (
        "greedy\n  a b\n  c\n\t d\n\ntemperature 1\n  greedy\n"
    )
    assert read_samples(path) == {"greedy": ["a b", "c\n d"], "temperature 1": ["greedy"]}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it has no text below a heading such as 'greedy'"),
        (b"greedy\n", "it has no text below a heading such as 'greedy'"),
        (b"  a\n", "line 1: this is neither a heading nor a text below one"),
        (b"greedy\n\ta\n", "line 2: this is neither a heading nor a text below one"),
        (b"greedy\n  a\ntemperature\n", "line 3: this is neither a heading nor a text below one"),
        (b"greedy\n  a\ngreedy\n  b\n", "line 3: duplicate heading 'greedy'"),
        (b"temperature nan\n  a\n", "line 1: the temperature is not a number above zero"),
        (b"temperature -1\n  a\n", "line 1: the temperature is not a number above zero"),
        (b"temperature 1e999\n  a\n", "line 1: the temperature is not a number above zero"),
        (b"temperature hot\n  a\n", "line 1: the temperature is not a number above zero"),
        (b"\xff", "'utf-8' codec can't decode byte"),
    ],
)
def test_damaged_file_names_line(tmp_path, content, why):
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    with pytest.raises(DamagedFile) as caught:
        read_samples(path)
    assert f"{path} is damaged ({why}" in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(MissingFile):
        read_samples(tmp_path / "x.txt")
