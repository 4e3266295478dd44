"""Draw the pictures from the curves, metrics and analyses of all variants."""

import csv
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar, get_args

from gru_lm.core.errors import UserError, run_stage
from gru_lm.core.files import damaged, missing, read_arrays, read_json, write_bytes
from gru_lm.core.params import Variant
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.report import gates as gate_plots
from gru_lm.report import heldout as heldout_plots
from gru_lm.report.style import speed_bars, training_curves

VARIANTS: tuple[str, ...] = get_args(Variant)
NPZ = "analysis/gates/{}.npz"
UNITS = {"char": "character", "word": "word"}
Result = TypeVar("Result")


def read_curve(path: Path, made_by: str) -> list[tuple[int, float]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t")
            curve = [(int(row["step"]), float(row["perplexity"])) for row in rows]
    except FileNotFoundError:
        raise missing(path, made_by) from None
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise damaged(path, made_by, str(error)) from None
    if not curve:
        raise damaged(path, made_by, "it has no row")
    steps = [step for step, _ in curve]
    if steps != sorted(set(steps)) or not all(1 <= value < math.inf for _, value in curve):
        raise damaged(path, made_by, "it is no curve of perplexities by rising epochs")
    return curve


def by_variant(read: Callable[[Path, str], Result], pattern: str, stage: str) -> dict[str, Result]:
    """What ``read`` finds in each variant's file, made by its ``stage``."""
    return {v: read(Path(pattern.format(v)), f"{stage}@{v}") for v in VARIANTS}


def drawn(name: str, draw: Callable[[], bytes]) -> bytes:
    """One picture. Raises UserError where the numbers for it are not what a stage writes."""
    try:
        return draw()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"plots/{name}.png cannot be drawn: a figure is missing or damaged ({error!r}): "
            "make metrics/ and analysis/ again with dvc repro --force"
        ) from error


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
    arrays = by_variant(partial(read_arrays, owner=vocabulary.fingerprint), NPZ, "gates")
    summary = read_json(Path("analysis/summary.json"), "summarise")
    by_split = {v: {split: curves[split][v] for split in curves} for v in VARIANTS}

    def time_constants() -> bytes:
        constants = {v: a["time_constant"] for v, a in arrays.items()}
        return gate_plots.time_constants(constants, unit)

    def heat_map(variant: str) -> bytes:
        passage = [vocabulary.tokens[number] for number in arrays[variant]["train_tokens"]]
        return gate_plots.heat_map(arrays[variant], passage, variant, unit)

    pictures: dict[str, Callable[[], bytes]] = {
        "training": lambda: training_curves(curves["train"]),
        "overfitting": lambda: heldout_plots.overfitting(by_split),
        "held_out": lambda: heldout_plots.held_out(summary, unit),
        "calibration": lambda: heldout_plots.calibration(uncertainty),
        "uncertainty": lambda: heldout_plots.where_uncertain(uncertainty),
        "claim": lambda: gate_plots.claim(gates, unit),
        "context": lambda: gate_plots.context(gates, unit),
        "time_constants": time_constants,
        "activity": lambda: gate_plots.activity(gates),
        **{f"gates-{variant}": partial(heat_map, variant) for variant in VARIANTS},
        "speed": lambda: speed_bars(timings),
    }
    # All are drawn before the first is written: no mixture of old and new ones is left.
    for name, picture in {name: drawn(name, draw) for name, draw in pictures.items()}.items():
        write_bytes(Path(f"plots/{name}.png"), picture)


if __name__ == "__main__":
    run_stage("plot", main)
