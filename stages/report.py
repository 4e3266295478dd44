"""Write reports/index.html, one page with the numbers, the pictures and a text to read along."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import TemplateError

from gru_lm.core.errors import DamagedFile, MissingFile, UserError
from gru_lm.core.files import read_arrays, read_json, write_text
from gru_lm.core.params import load_params
from gru_lm.core.settings import CoreSettings
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.report.page import PASSAGES, PNG_SIGNATURE, Gates, Picture, Reading, Results, render
from stages import run_stage

VARIANTS = load_params(CoreSettings).variants
SPLITS: Final = ("train", "val", "test")

# What figures that no stage writes lead to.
DAMAGED: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    TemplateError,
)

GATE_MAPS: Final = (
    "Columns are the characters or words of a passage, rows some of the units, ordered by their "
    "time constant. Look for columns that change all at once, as at the start of a word, and for "
    "rows that stay dark or light throughout."
)

# The heading that a picture stands under, its name in plots/, what it shows, what to look at.
PICTURES: Final = (
    (
        "Learning",
        "training",
        "Line chart of training perplexity by epoch, one line a variant, on a log scale.",
        "Training perplexity by epoch. Look at where each line ends beside the dashed one, the "
        "textbook's result, and at the spikes on the way, which a large learning rate makes.",
    ),
    (
        "Learning",
        "overfitting",
        "Line chart of validation and training perplexity by epoch on a log scale.",
        "The same training seen from outside. Where the validation line turns up while the "
        "training line goes on down, the model has begun to learn its text by heart.",
    ),
    (
        "Learning",
        "speed",
        "Bar chart of training speed in tokens a second by variant.",
        "How fast each variant trains on the machine that made this page: compare the bars with "
        "each other rather than with another machine's.",
    ),
    (
        "On unseen text",
        "held_out",
        "Dot plot of bits a token on each split, one row a predictor, models beside baselines.",
        "Models and baselines by the bits they need. Look at which counting tables stand above the "
        "models, and how far a model's result on its training text lies from the others.",
    ),
    (
        "On unseen text",
        "calibration",
        "Two reliability diagrams, training and validation: accuracy by confidence.",
        "How often the top prediction comes true, by how sure the model was of it. On the diagonal "
        "its probabilities can be believed; below it the model is too sure.",
    ),
    (
        "On unseen text",
        "uncertainty",
        "Dot plot of perplexity by place in the word and kind of character, and of the perplexity "
        "that the model expected.",
        "Where the surprise falls. A dot is the perplexity reached, the dash below it what the "
        "model expected: the longer the line between, the more it deceives itself.",
    ),
    (
        "Memory",
        "context",
        "Line chart of perplexity by the number of tokens that the model has read.",
        "How much of the past is used. Look for the context beyond which a line no longer falls: "
        "what lies further back does not help.",
    ),
    (
        "Memory",
        "claim",
        "Chart of what is lost of near and far context when a gate or some units are held fixed.",
        "The textbook's claim put to the test: reset gates for what is near, update gates for what "
        "is far. Compare what an intervention takes of near and of far context, at equal damage.",
    ),
    (
        "Gates",
        "time_constants",
        "Distribution of the units' time constants by variant.",
        "How long units remember through their own leak alone: look where most of them lie, and at "
        "the tail of those that hold on.",
    ),
    (
        "Gates",
        "activity",
        "Mean of the update and the reset gate by place in the word.",
        "What the gates do at the start of a word, within it and at the space after it: a gate "
        "that ignored the text would be the same at all three.",
    ),
    ("Gates", "gates-scratch", "Heat map of scratch's gates by unit and token.", GATE_MAPS),
    ("Gates", "gates-concise", "Heat map of concise's gates by unit and token.", GATE_MAPS),
    ("Gates", "gates-fused", "Heat map of fused's gates by unit and token.", GATE_MAPS),
)


def read_metrics(path: Path, made_by: str, required: Iterable[str]) -> dict[str, Any]:
    """The metrics in ``path``; the dotted keys ``required`` must be numbers."""
    metrics = read_json(path)
    for dotted in required:
        value: Any = metrics
        for key in dotted.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DamagedFile(path, f"{dotted} is not a number")
    return metrics


def read_summary() -> dict[str, Any]:
    means = [f"{split}.bits_per_token" for split in SPLITS]
    required = [f"models.{v}.{mean}.mean" for v in VARIANTS for mean in means]
    path = Path("analysis/summary.json")
    summary = read_metrics(path, "summarise", required)
    if not isinstance(summary.get("seeds"), list) or not isinstance(summary.get("baselines"), dict):
        raise DamagedFile(path, "'seeds' or 'baselines' is missing")
    return summary


def read_gates(variant: str, vocabulary: Vocabulary) -> Gates:
    path, _stage = Path(f"analysis/gates/{variant}.npz"), f"gates@{variant}"
    arrays = read_arrays(path, owner=vocabulary.fingerprint)
    try:
        readings = {
            split: Reading(
                arrays[f"{split}_tokens"],
                arrays[f"{split}_Z"],
                arrays[f"{split}_R"],
                arrays[f"{split}_surprise"],
                arrays[f"{split}_top_tokens"],
                arrays[f"{split}_top_probabilities"],
            )
            for split in PASSAGES
        }
        gates = Gates(readings, arrays["mean_Z"], arrays["mean_R"], arrays["time_constant"])
        gates.require_fitting(len(vocabulary))
    except KeyError as error:
        raise DamagedFile(path, f"it has no array {error}") from None
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise DamagedFile(path, str(error)) from None
    return gates


def read_all_gates(vocabulary: Vocabulary) -> dict[str, Gates]:
    gates = {variant: read_gates(variant, vocabulary) for variant in VARIANTS}
    for variant in VARIANTS[1:]:
        for split in PASSAGES:
            first, other = (gates[v].readings[split].tokens for v in (VARIANTS[0], variant))
            if not np.array_equal(first, other):
                path = Path(f"analysis/gates/{variant}.npz")
                why = f"its {split} passage is not that of {VARIANTS[0]}"
                raise DamagedFile(path, why)
    return gates


def read_samples(variant: str) -> dict[str, list[str]]:
    """The texts in a variant's samples by their heading, such as greedy or temperature 0.5."""
    path, _stage = Path(f"samples/{variant}.txt"), f"sample@{variant}"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise MissingFile(path) from None
    except UnicodeDecodeError as error:
        raise DamagedFile(path, str(error)) from None
    samples: dict[str, list[str]] = {}
    texts: list[str] | None = None
    for line in lines:
        if line == "greedy" or line.startswith("temperature "):
            texts = samples.setdefault(line, [])
        elif texts is not None and line.startswith("  "):
            texts.append(line[2:])
        elif texts and line.startswith("\t"):
            texts[-1] += "\n" + line[1:]  # a text may hold line breaks
    if not samples:
        raise DamagedFile(path, "it has no heading such as 'greedy'")
    return samples


def read_picture(heading: str, name: str, alt: str, caption: str) -> Picture:
    path = Path(f"plots/{name}.png")
    if not path.exists():
        path = Path(f"analysis/plots/{name}.png")
    try:
        png = path.read_bytes()
    except FileNotFoundError:
        raise MissingFile(path) from None
    if png[:8] != PNG_SIGNATURE or len(png) < 24:
        raise DamagedFile(path, "it is not a PNG")
    return Picture(heading, png, alt, caption)


def by_variant(folder: str, stage: str, *required: str) -> dict[str, dict[str, Any]]:
    return {
        variant: read_metrics(Path(f"{folder}/{variant}.json"), f"{stage}@{variant}", required)
        for variant in VARIANTS
    }


def main() -> None:
    vocabulary = Vocabulary.load(Path("data/prepared/vocab.json"))
    results = Results(
        summary=read_summary(),
        training=by_variant("metrics/train", "train", "perplexity", "parameters"),
        timing=by_variant("metrics/timing", "train", "tokens_per_second", "seconds"),
        export=by_variant("metrics/export", "export", "max_logit_difference"),
        samples={variant: read_samples(variant) for variant in VARIANTS},
        gates=read_all_gates(vocabulary),
        pictures=[read_picture(*picture) for picture in PICTURES],
    )
    try:
        page = render(results, vocabulary)
    except DAMAGED as error:
        raise UserError(
            f"the report cannot be made: a figure is missing or damaged ({error!r}): "
            "make metrics/ and analysis/ again with dvc repro --force"
        ) from error
    write_text(Path("reports/index.html"), page)


if __name__ == "__main__":
    run_stage("report", main)
