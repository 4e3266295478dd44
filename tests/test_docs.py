"""The tests, files and graph that the docs mention exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in PROJECT.glob("docs/*.md"))]


def text(page: str) -> str:
    return (PROJECT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_exist(page: str) -> None:
    folder = (PROJECT / page).parent
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text(page)):
        assert (folder / target).exists(), target


def test_tests_named_in_docs_exist() -> None:
    named = re.findall(r"`([\w/]*test_\w+\.py)(?:: (test_\w+))?`", text("docs/reliability.md"))
    assert len(named) > 40
    for path, function in named:
        source = (PROJECT / "tests" / path).read_text(encoding="utf-8")
        assert f"def {function}(" in source or not function, f"{path}: {function}"


def test_readme_graph_matches_dvc() -> None:
    command = [str(Path(sys.executable).parent / "dvc"), "dag", "--md", "--collapse-foreach-matrix"]
    made = subprocess.run(
        [*command, "dvc.yaml"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    assert made.strip() in text("README.md"), "make graph prints the present one"
