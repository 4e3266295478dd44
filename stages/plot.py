"""Draw the pictures from the curves, metrics and analyses of all variants."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gru_lm.core.errors import UserError
from gru_lm.core.files import read_json, write_bytes
from gru_lm.core.params import load_params
from gru_lm.core.settings import CoreSettings
from gru_lm.report import heldout as heldout_plots
from gru_lm.report.style import speed_bars, training_curves
from gru_lm.results.training import read_curve
from stages import run_stage

VARIANTS = load_params(CoreSettings).variants
NPZ = "analysis/gates/{}.npz"
UNITS = {"char": "character", "word": "word"}
Result = TypeVar("Result")


def by_variant(read: Callable[[Path], Result], pattern: str) -> dict[str, Result]:
    """What ``read`` finds in each variant's file."""
    return {v: read(Path(pattern.format(v))) for v in VARIANTS}


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
    curves = {
        split: by_variant(read_curve, f"plots/{split}/{{}}.tsv") for split in ("train", "val")
    }
    timings = by_variant(read_json, "metrics/timing/{}.json")
    uncertainty = by_variant(read_json, "analysis/uncertainty/{}.json")
    by_split = {v: {split: curves[split][v] for split in curves} for v in VARIANTS}
    pictures: dict[str, Callable[[], bytes]] = {
        "training": lambda: training_curves(curves["train"]),
        "overfitting": lambda: heldout_plots.overfitting(by_split),
        "calibration": lambda: heldout_plots.calibration(uncertainty),
        "uncertainty": lambda: heldout_plots.where_uncertain(uncertainty),
        "speed": lambda: speed_bars(timings),
    }
    # All are drawn before the first is written: no mixture of old and new ones is left.
    for name, picture in {name: drawn(name, draw) for name, draw in pictures.items()}.items():
        write_bytes(Path(f"plots/{name}.png"), picture)


if __name__ == "__main__":
    run_stage("plot", main)
