"""Draw the pictures from the curves, metrics and analyses of all variants."""

import csv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np

from gru_lm import gate_plots, heldout_plots
from gru_lm.errors import UserError, run_stage
from gru_lm.files import damaged, missing, read_json, write_bytes
from gru_lm.plotting import speed_bars, training_curves
from gru_lm.settings import Variant
from gru_lm.vocabulary import Vocabulary

VARIANTS: tuple[str, ...] = get_args(Variant)
UNITS = {"char": "character", "word": "word"}
Result = TypeVar("Result")


def read_curve(path: Path, made_by: str) -> list[tuple[int, float]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t")
            curve = [(int(row["step"]), float(row["perplexity"])) for row in rows]
    except FileNotFoundError:
        raise missing(path, made_by) from None
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, made_by, str(error)) from None
    if not curve:
        raise damaged(path, made_by, "it has no row")
    return curve


def read_arrays(path: Path, made_by: str) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise missing(path, made_by) from None
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise damaged(path, made_by, str(error)) from None


def by_variant(read: Callable[[Path, str], Result], pattern: str, stage: str) -> dict[str, Result]:
    """What ``read`` finds in each variant's file, made by its ``stage``."""
    return {v: read(Path(pattern.format(v)), f"{stage}@{v}") for v in VARIANTS}


def save(name: str, draw: Callable[..., bytes], *numbers: Any) -> None:
    """Draw one picture. Raises UserError where the numbers are not what a stage writes."""
    try:
        picture = draw(*numbers)
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"plots/{name}.png cannot be drawn: a figure is missing or damaged ({error!r}): "
            "make metrics/ and analysis/ again with dvc repro --force"
        ) from error
    write_bytes(Path(f"plots/{name}.png"), picture)


def main() -> None:
    vocabulary = Vocabulary.load(Path("data/prepared/vocab.json"))
    unit = UNITS[vocabulary.level]
    curves = {
        split: by_variant(read_curve, f"dvclive/{{}}/plots/metrics/{split}/perplexity.tsv", "train")
        for split in ("train", "val")
    }
    timings = by_variant(read_json, "metrics/timing/{}.json", "train")
    uncertainty = by_variant(read_json, "analysis/uncertainty/{}.json", "evaluate")
    gates = by_variant(read_json, "analysis/gates/{}.json", "gates")
    arrays = by_variant(read_arrays, "analysis/gates/{}.npz", "gates")
    summary = read_json(Path("analysis/summary.json"), "summarise")

    save("training", training_curves, curves["train"])
    by_split = {v: {split: curves[split][v] for split in curves} for v in VARIANTS}
    save("overfitting", heldout_plots.overfitting, by_split)
    save("held_out", heldout_plots.held_out, summary, unit)
    save("calibration", heldout_plots.calibration, uncertainty)
    save("uncertainty", heldout_plots.where_uncertain, uncertainty)
    save("claim", gate_plots.claim, gates, unit)
    save("context", gate_plots.context, gates, unit)
    save(
        "time_constants",
        gate_plots.time_constants,
        {v: a["time_constant"] for v, a in arrays.items()},
        unit,
    )
    save("activity", gate_plots.activity, gates)
    for variant in VARIANTS:
        passage = [vocabulary.tokens[number] for number in arrays[variant]["train_tokens"]]
        save(f"gates-{variant}", gate_plots.heat_map, arrays[variant], passage, variant, unit)
    save("speed", speed_bars, timings)


if __name__ == "__main__":
    run_stage("plot", main)
