"""Curves are written for DVC's plots, and damaged ones are refused."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_lm.core.errors import DamagedFile, MissingFile
from gru_lm.results.training import parse_curve, read_curve, write_curve

perplexities = st.floats(min_value=1, allow_infinity=False, allow_nan=False)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.integers(0, 10**7), perplexities, min_size=1))
def test_curve_round_trip_is_exact(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("curve") / "train.tsv"
    curve = sorted(values.items())
    write_curve(path, curve)
    assert read_curve(path) == curve


def test_curve_has_columns_for_dvc(tmp_path):
    write_curve(tmp_path / "a" / "val.tsv", iter([(5, 12.25), (10, 9.0)]))
    written = (tmp_path / "a" / "val.tsv").read_bytes()
    assert written == b"step\tperplexity\n5\t12.25\n10\t9.0\n"


def test_dvclive_files_are_read(tmp_path):
    path = tmp_path / "perplexity.tsv"
    path.write_bytes(b"step\tperplexity\r\n1\t27.5\r\n2\t13\r\n")
    assert read_curve(path) == [(1, 27.5), (2, 13.0)]


HEAD = "step\tperplexity\n"
DAMAGED = {
    "empty": "",
    "heading-only": HEAD,
    "no-heading": "1\t2.5\n2\t2.4\n",
    "another-heading": "epoch\tperplexity\n1\t2.5\n",
    "commas": "step,perplexity\n1,2.5\n",
    "cut-in-a-row": HEAD + "1\t2.5\n2",
    "cut-after-the-tab": HEAD + "1\t2.5\n2\t",
    "text": HEAD + "1\tlow\n",
    "fraction-of-an-epoch": HEAD + "1.5\t2.5\n",
    "nan": HEAD + "1\tnan\n",
    "infinite": HEAD + "1\tinf\n",
    "below-one": HEAD + "1\t0.99\n",
    "negative": HEAD + "1\t-3\n",
    "epoch-twice": HEAD + "1\t3.5\n1\t2.5\n",
    "falling-epochs": HEAD + "2\t3.5\n1\t2.5\n",
    "null-byte": HEAD + "1\t2.\0005\n",
    "merge-conflict": HEAD + "<<<<<<< HEAD\n1\t2.5\n=======\n1\t2.4\n>>>>>>> other\n",
    "overflow": HEAD + "1\t1e999\n",
    "negative-epoch": HEAD + "-1\t2.5\n",
    "epoch-beyond-the-last": HEAD + "10000000001\t2.5\n",
    "endless-digits": HEAD + "1" * 5000 + "\t2.5\n",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_other_content_is_refused(tmp_path, content):
    path = tmp_path / "train.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DamagedFile) as caught:
        read_curve(path)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path} is damaged (")
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(DamagedFile):
        parse_curve(content, path)


def test_non_utf8_bytes_are_refused(tmp_path):
    (tmp_path / "train.tsv").write_bytes(HEAD.encode() + b"1\t2.5\xff\n")
    with pytest.raises(DamagedFile):
        read_curve(tmp_path / "train.tsv")


def test_missing_curve_is_named(tmp_path):
    with pytest.raises(MissingFile) as caught:
        read_curve(tmp_path / "train.tsv")
    assert caught.value.path == tmp_path / "train.tsv"


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.5])
def test_invalid_perplexities_are_refused(tmp_path, value):
    write_curve(tmp_path / "train.tsv", [(1, value)])
    with pytest.raises(DamagedFile, match="not a curve of perplexities"):
        read_curve(tmp_path / "train.tsv")
