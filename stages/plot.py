"""Draw the pictures from the curves and metrics of all variants."""

import csv
from pathlib import Path
from typing import Any, get_args

from gru_lm.errors import run_stage
from gru_lm.files import damaged, missing, read_json, write_bytes
from gru_lm.plotting import held_out_bars, speed_bars, training_curves
from gru_lm.settings import Variant

VARIANTS: tuple[str, ...] = get_args(Variant)


def read_curve(variant: str) -> list[tuple[int, float]]:
    path = Path(f"dvclive/{variant}/plots/metrics/train/perplexity.tsv")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t")
            curve = [(int(row["step"]), float(row["perplexity"])) for row in rows]
    except FileNotFoundError:
        raise missing(path, f"train@{variant}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"train@{variant}", str(error)) from None
    if not curve:
        raise damaged(path, f"train@{variant}", "it has no row")
    return curve


def read_metrics(kind: str, name: str, made_by: str) -> dict[str, Any]:
    return read_json(Path(f"metrics/{kind}/{name}.json"), made_by)


def main() -> None:
    curves = {variant: read_curve(variant) for variant in VARIANTS}
    scores = {v: read_metrics("evaluate", v, f"evaluate@{v}") for v in VARIANTS}
    scores["unigram"] = read_metrics("evaluate", "unigram", "baseline")
    timings = {v: read_metrics("timing", v, f"train@{v}") for v in VARIANTS}
    write_bytes(Path("plots/training.png"), training_curves(curves))
    write_bytes(Path("plots/held_out.png"), held_out_bars(scores))
    write_bytes(Path("plots/speed.png"), speed_bars(timings))


if __name__ == "__main__":
    run_stage("plot", main)
