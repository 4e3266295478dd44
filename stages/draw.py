"""Draw the pictures of the analysis."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from gru_lm.core.errors import UserError
from gru_lm.core.files import read_arrays, read_json, write_bytes
from gru_lm.core.params import load_params
from gru_lm.core.settings import CoreSettings
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.report import gates as gate_plots
from gru_lm.report import heldout as heldout_plots
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
    vocabulary = Vocabulary.load(Path("data/prepared/vocab.json"))
    unit = UNITS[vocabulary.level]
    gates = by_variant(read_json, "analysis/gates/{}.json")
    arrays = by_variant(partial(read_arrays, owner=vocabulary.fingerprint), NPZ)
    summary = read_json(Path("analysis/summary.json"))

    def time_constants() -> bytes:
        constants = {v: a["time_constant"] for v, a in arrays.items()}
        return gate_plots.time_constants(constants, unit)

    def heat_map(variant: str) -> bytes:
        passage = [vocabulary.tokens[number] for number in arrays[variant]["train_tokens"]]
        return gate_plots.heat_map(arrays[variant], passage, variant, unit)

    pictures: dict[str, Callable[[], bytes]] = {
        "held_out": lambda: heldout_plots.held_out(summary, unit),
        "claim": lambda: gate_plots.claim(gates, unit),
        "context": lambda: gate_plots.context(gates, unit),
        "time_constants": time_constants,
        "activity": lambda: gate_plots.activity(gates),
        **{f"gates-{variant}": partial(heat_map, variant) for variant in VARIANTS},
    }
    # All are drawn before the first is written: no mixture of old and new ones is left.
    for name, picture in {name: drawn(name, draw) for name, draw in pictures.items()}.items():
        write_bytes(Path(f"analysis/plots/{name}.png"), picture)


if __name__ == "__main__":
    run_stage("draw", main)
