"""Variants are folders with settings.py; any other name is refused."""

from pathlib import Path

import pytest

import gru_lm.models
from gru_lm.core import variants
from gru_lm.core.variants import checked, known_variants

FOLDERS = Path(gru_lm.models.__file__).parent


def test_known_variants_of_project():
    assert set(known_variants()) >= {"scratch", "concise", "fused"}
    assert known_variants() == sorted(known_variants())
    for name in known_variants():
        assert (FOLDERS / name / "settings.py").is_file()
        assert (FOLDERS / name / "model.py").is_file()


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Make a folder of models to which a test can add."""
    for name in ("lstm", "scratch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.py").touch()
    (tmp_path / "base.py").touch()
    (tmp_path / "settings.py").touch()  # of all variants together
    monkeypatch.setattr(variants, "MODELS", tmp_path)
    return tmp_path


def test_only_folders_with_settings_are_variants(models):
    for name in ("gru", "__pycache__"):
        (models / name).mkdir()
    (models / "gru" / "equations.py").touch()
    (models / "scratch" / "deeper").mkdir()
    (models / "scratch" / "deeper" / "settings.py").touch()
    assert known_variants() == ["lstm", "scratch"]


def test_new_folder_is_a_variant(models):
    with pytest.raises(ValueError, match="'another' is not a variant"):
        checked("another")
    (models / "another").mkdir()
    (models / "another" / "settings.py").touch()
    assert known_variants() == ["another", "lstm", "scratch"]
    assert checked("another") == "another"


@pytest.mark.parametrize("name", ["lstm", "scratch"])
def test_known_name_is_accepted(models, name):
    assert checked(name) == name


@pytest.mark.parametrize(
    "name, hint",
    [
        ("scrach", " (did you mean 'scratch'?)"),
        ("LSTM ", ""),
        ("transformer", ""),
        ("", ""),
        (".", ""),
        ("../scratch", " (did you mean 'scratch'?)"),
        ("scratch/deeper", " (did you mean 'scratch'?)"),
        ("base", ""),
    ],
)
def test_unknown_name_lists_known_ones(models, name, hint):
    with pytest.raises(ValueError) as caught:
        checked(name)
    assert str(caught.value) == f"{name!r} is not a variant{hint}; choose from: lstm, scratch"
