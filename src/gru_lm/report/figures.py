"""The list of all pictures: what draws each, and what the page says of it.

A new picture is one entry. Each pipeline draws its own; the page shows all, in this order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from gru_lm.report.drawing import coverage, curves, gates, held_out, memory, uncertainty
from gru_lm.report.inputs import Inputs

Pipeline = Literal["main", "analysis"]
FOLDERS: Final[dict[Pipeline, Path]] = {"main": Path("plots"), "analysis": Path("analysis/plots")}
EACH: Final = "{variant}"  # in the name of a figure that there is of each variant with gates


@dataclass(frozen=True)
class Figure:
    """One picture.

    ``alt`` describes it for readers who cannot see it, ``caption`` says what to look at. ``draw``
    gets the results and, if the name holds EACH, the variant. A figure with ``needs_gates`` is left
    out if no variant has gates.
    """

    name: str
    pipeline: Pipeline
    heading: str
    draw: Callable[[Inputs, str], bytes]
    alt: str
    caption: str
    needs_gates: bool = False
    variant: str = ""

    @property
    def path(self) -> Path:
        """Where its pipeline writes it."""
        return FOLDERS[self.pipeline] / f"{self.name}.png"

    def png(self, inputs: Inputs) -> bytes:
        """The picture itself."""
        return self.draw(inputs, self.variant)


def figures(inputs: Inputs, pipeline: Pipeline | None = None) -> Iterator[Figure]:
    """The figures of a pipeline, or all of them, for the variants that there are."""
    for figure in FIGURES:
        if pipeline not in (None, figure.pipeline) or (figure.needs_gates and not inputs.gates):
            continue
        if EACH not in figure.name:
            yield figure
            continue
        for variant in inputs.gates:
            name, alt = (text.replace(EACH, variant) for text in (figure.name, figure.alt))
            yield replace(figure, name=name, alt=alt, variant=variant)


FIGURES: Final = (
    Figure(
        name="training",
        pipeline="main",
        heading="Learning",
        draw=lambda of, _: curves.training(of.looks, of.train_curves, of.textbook),
        alt="Line charts of training perplexity by epoch on a log scale, one panel per variant, "
        "with the textbook's result.",
        caption="Training perplexity by epoch, one panel per variant. Compare where the line ends "
        "with the dashed line, the textbook's result for that variant on The Time Machine. The "
        "spikes come from a large learning rate.",
    ),
    Figure(
        name="overfitting",
        pipeline="main",
        heading="Learning",
        draw=lambda of, _: curves.overfitting(of.looks, of.train_curves, of.val_curves),
        alt="Line charts of validation and training perplexity by epoch on a log scale, one panel "
        "per variant, with the best epoch marked.",
        caption="The same training beside the validation split. If the validation line turns up "
        "while the training line goes on down, the model begins to memorise its text. During "
        "training the validation split is read in as many rows as a minibatch has sequences (32 by "
        "default), each from an empty state. The evaluation reads it as one text, so its figures "
        "differ a little.",
    ),
    Figure(
        name="coverage",
        pipeline="main",
        heading="Learning",
        draw=lambda of, _: coverage.coverage(of.looks, of.coverage),
        alt="Dot plot of perplexity, and of the shares of targets and loss, by how often a target "
        "was trained.",
        caption="The training text read once from start to end, its targets grouped by the share "
        "of the epochs in which a minibatch held them. An epoch leaves out what its offset and the "
        "cuts leave over. Compare the height of a mark in the lower part with the grey bar behind "
        "it: above the bar, these targets cost more than their share.",
    ),
    Figure(
        name="speed",
        pipeline="main",
        heading="Learning",
        draw=lambda of, _: curves.speed(of.looks, of.timings),
        alt="Bar chart of training speed in tokens per second by variant.",
        caption="Training speed on the machine that made this page, rounded to two digits. Compare "
        "the bars with each other rather than with another machine's.",
    ),
    Figure(
        name="held_out",
        pipeline="analysis",
        heading="On unseen text",
        draw=lambda of, _: held_out.held_out(of.looks, of.summary, of.unit),
        alt="Dot plot of bits per token on each split, one row per predictor, models beside "
        "baselines.",
        caption="Models and baselines by the bits that they need. Look at which n-grams are above "
        "the models, and how far a model's result on its training text lies from the others. A "
        "star is a model at its best epoch. That epoch was chosen on the validation split, so the "
        "star is an optimistic estimate.",
    ),
    Figure(
        name="calibration",
        pipeline="main",
        heading="On unseen text",
        draw=lambda of, _: uncertainty.calibration(of.looks, of.uncertainty),
        alt="Reliability diagrams of each variant on the training, validation and test splits: "
        "accuracy by confidence.",
        caption="How often the top prediction is right, by how sure the model was of it (its "
        "confidence). On the diagonal its probabilities can be believed; below it the model is "
        "overconfident. Lines are 95 % Wilson intervals, which take the predictions as "
        "independent. The calibration error is the mean distance from the diagonal, weighted by "
        "the share of the predictions. The figures in the title are of the validation split.",
    ),
    Figure(
        name="uncertainty",
        pipeline="main",
        heading="On unseen text",
        draw=lambda of, _: uncertainty.where_uncertain(of.looks, of.uncertainty),
        alt="Dot plot of perplexity by place in the word and kind of character, and of the "
        "perplexity that the model expected.",
        caption="Where the surprise is largest. The variant's marker is the perplexity that it "
        "reached, a dash the one that it expected. The longer the line between them, the more "
        "overconfident the model is there. The figures in the title are of the validation split "
        "and, if there are several variants, their geometric mean. The two splits have scales of "
        "their own.",
    ),
    Figure(
        name="context",
        pipeline="analysis",
        heading="Memory",
        draw=lambda of, _: memory.context(of.gated_looks, of.gates, of.unit),
        alt="Line charts of the loss and of the share of right answers by the number of tokens "
        "that the model is given, for each variant, on training and on unseen text.",
        caption="How much of the past a model uses. Only the last tokens before the one to predict "
        "are read. Where a line is level, more context does not help; where a line of bits rises, "
        "more context misleads. Recalibrated means that one factor for each point makes the "
        "probabilities less or more extreme, so that overconfidence does not count. Lines are the "
        "means over the trainings, bands the range.",
        needs_gates=True,
    ),
    Figure(
        name="claim",
        pipeline="analysis",
        heading="Memory",
        draw=lambda of, _: memory.claim(of.gated_looks, of.gates, of.unit),
        alt="Above, line charts of the rise of the loss by the number of tokens that the model is "
        "given, with the reset or the update gate held. Below, dot plots of differences, one mark "
        "per training, with the mean and its 95 % interval.",
        caption="A test of the textbook's claim on the training text: reset gates for what is "
        "near, update gates for what is far. Each gate is blended towards its mean until the loss "
        "with the most context has risen by the same amount. If near context leans more on the "
        "reset gate, its line is the higher one where less context is given, and the difference "
        "below is above zero. Bits are recalibrated as in the picture before.",
        needs_gates=True,
    ),
    Figure(
        name="time_constants",
        pipeline="analysis",
        heading="Gates",
        draw=lambda of, _: gates.time_constants(
            of.gated_looks,
            {name: arrays.time_constant for name, arrays in of.gate_arrays.items()},
            of.unit,
        ),
        alt="Cumulative distribution of the units' time constants, one line per variant.",
        caption="How long units remember through their own leak alone. A line shows the share of "
        "the units with at most that time constant; the marker is the median unit. Look at how "
        "steep a line is, and at how late it reaches 100 %.",
        needs_gates=True,
    ),
    Figure(
        name="activity",
        pipeline="analysis",
        heading="Gates",
        draw=lambda of, _: gates.activity(
            of.gated_looks, {name: study.activity for name, study in of.gates.items()}
        ),
        alt="Dot plot of the mean of the update and the reset gate by place in the word.",
        caption="The gates at the first letter of a word, inside a word and at white space, on the "
        "whole scale of a gate, 0 to 1. A gate that ignored the text would have the same mean at "
        "all three.",
        needs_gates=True,
    ),
    Figure(
        name=f"gates-{EACH}",
        pipeline="analysis",
        heading="Gates",
        draw=lambda of, variant: gates.heat_map(
            of.looks[variant], of.gate_arrays[variant], of.vocabulary.tokens, of.unit
        ),
        alt=f"Heat map of {EACH}'s gates by unit and token.",
        caption="Columns are the tokens of a passage, rows are units in the order of their time "
        "constant. If there are more than 48 units, 48 are shown, at equal steps of that order. "
        "The percentages in the title are of all units. Look for columns that change all at once, "
        "as at the start of a word, and for rows that stay dark or light throughout.",
        needs_gates=True,
    ),
)
