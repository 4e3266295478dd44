"""A recipe becomes one command for DVC, which trains it and keeps it as an experiment."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from conftest import PROJECT
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from gru_lm.core.errors import UserError
from gru_lm.core.params import all_parts, load_params, read_yaml
from tools import recipe


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with the project's params.yaml and an empty folder recipes/."""
    (tmp_path / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("tiny_shakespeare", "a=tiny_shakespeare"),
        (["concise", "fused"], "a=[concise,fused]"),
        (None, "a=null"),
        ("null", 'a="null"'),
        (True, "a=true"),
        (4e-3, "a=0.004"),
        (1e-05, "a=1e-05"),
        ("the time", 'a="the time"'),
        (['say "it"', 2], 'a=["say \\"it\\"",2]'),
        ([], "a=[]"),
    ],
)
@pytest.mark.usefixtures("project")
def test_values_are_written_for_dvc(value: object, written: str) -> None:
    assert recipe.option("a", value) == written
    Path("params.yaml").write_text("a: 0\n")
    apply_overrides("params.yaml", [written])
    assert read_yaml(Path("params.yaml")) == {"a": value}


def test_every_recipe_is_valid(project: Path) -> None:
    names = [path.stem for path in (PROJECT / "recipes").glob("*.yaml")]
    assert len(names) >= 5
    for name in names:
        (project / "recipes" / f"{name}.yaml").write_bytes(
            (PROJECT / "recipes" / f"{name}.yaml").read_bytes()
        )
        params = recipe.settings(name)
        yaml = YAML()
        tree = yaml.load((PROJECT / "params.yaml").read_text("utf-8"))
        for key, value in params.items():
            *sections, last = key.split(".")
            section = tree
            for one in sections:
                section = section[one]
            assert section[last] != value, f"{name} sets {key} to its default"
            section[last] = value
        yaml.dump(tree, Path("params.yaml"))
        for part in all_parts():
            load_params(part)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("train: {lrr: 1}", "has no key 'train.lrr'"),
        ("- a", "must be a mapping"),
        ("", "must be a mapping"),
        ("train: [", "is not valid YAML"),
    ],
)
def test_a_recipe_with_a_fault(project: Path, content: str, why: str) -> None:
    Path("recipes/x.yaml").write_text(content)
    with pytest.raises(UserError, match=r"recipes/x\.yaml.*" + why):
        recipe.settings("x")


def test_an_unknown_recipe(project: Path) -> None:
    Path("recipes/words.yaml").write_text("train: {lr: 2}")
    with pytest.raises(UserError, match=r"unknown recipe 'word' \(did you mean 'words'\?\)"):
        recipe.settings("word")


def test_changes_take_the_place_of_the_recipes_params(project: Path) -> None:
    run = recipe.command("mine", {"train.lr": 2, "train.seed": 1}, ["train.seed=5", "+x.y=[1,2]"])
    assert shlex.join(run) == (
        "dvc exp run --temp --name mine -S train.lr=2 -S train.seed=5 -S '+x.y=[1,2]'"
    )
    with pytest.raises(UserError, match="key=value"):
        recipe.command("mine", {}, ["train.seed"])
