"""Folders in which the stages of a training run by hand, with small params and random text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from gru_lm.data.prepared import Prepared
from gru_lm.data.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[2]


def prepare(folder: Path) -> Path:
    """Write prepared data of random text, which can only be memorised, to ``folder``."""
    generator = np.random.default_rng(0)
    text = "".join(generator.choice(list("abcde fgh"), 500))
    vocabulary = Vocabulary.build(text)
    tokens = vocabulary.encode(text)
    splits = {"train": tokens[:300], "val": tokens[300:400], "test": tokens[400:]}
    Prepared.write(vocabulary, splits, folder / "data/prepared")
    return folder


def copy_with_params(prepared: Path, target: Path, **train: object) -> Path:
    """Make a copy of the folder with small params and a checkpoint per epoch."""
    (target / "data").mkdir(parents=True)
    (target / "data/prepared").symlink_to(prepared / "data/prepared")
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["device"] = "cpu"
    params["model"]["hidden_size"] = 96
    params["train"] |= {"epochs": 40, "batch_size": 8, "num_steps": 10, "lr": 0.5} | train
    params["checkpoint"]["every"] = 1
    (target / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return target


def set_param(folder: Path, section: str, key: str, value: object) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params[section][key] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def checkpoint_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(".checkpoints/*/0*.safetensors"))
