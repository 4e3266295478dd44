"""Settings of small trainings, from params.yaml with changes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from gru_lm.training.settings import Train

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"
SECTIONS = ("schedule", "average")


@cache
def _text() -> str:
    return PARAMS.read_text(encoding="utf-8")


def train_tree(**changes: Any) -> dict[str, Any]:
    """Return the section train of params.yaml with changes, merged within its subsections."""
    tree: dict[str, Any] = yaml.safe_load(_text())["train"]
    for name in SECTIONS:
        changes[name] = tree[name] | changes.get(name, {})
    return tree | changes


def train_settings(**changes: Any) -> Train:
    """Return the settings of params.yaml with changes."""
    return Train(**train_tree(**changes))
