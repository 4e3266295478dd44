"""The list of all pictures, with their drawing functions, alternative texts and captions.

To add a picture, add one entry. Each pipeline draws its own; the page shows all in this order.
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
EACH: Final = "{variant}"  # in the name of a figure that is drawn for each variant with gates
AXIS: Final = "{axis}"  # in a text: what the training curves count, epoch or step


@dataclass(frozen=True)
class Figure:
    """One picture.

    ``alt`` describes it for readers who cannot see it, ``caption`` explains how to read it.
    ``draw`` gets the results and, if the name contains EACH, the variant. A figure with
    ``needs_gates`` is left out if no variant has gates.
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
        """The path to which its pipeline writes it."""
        return FOLDERS[self.pipeline] / f"{self.name}.png"

    def png(self, inputs: Inputs) -> bytes:
        """Draw the picture and return it as a PNG."""
        return self.draw(inputs, self.variant)


def figures(inputs: Inputs, pipeline: Pipeline | None = None) -> Iterator[Figure]:
    """Yield the figures of ``pipeline``, or all of them, for the variants of ``inputs``."""
    for figure in FIGURES:
        if pipeline not in (None, figure.pipeline) or (figure.needs_gates and not inputs.gates):
            continue
        if AXIS in figure.caption:
            alt, caption = (one.replace(AXIS, inputs.axis) for one in (figure.alt, figure.caption))
            figure = replace(figure, alt=alt, caption=caption)
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
        draw=lambda of, _: curves.training(of.looks, of.train_curves, of.textbook, of.axis),
        alt="Line charts of training perplexity by {axis} on a log scale, one panel per variant, "
        "with the textbook's result.",
        caption="Training perplexity by {axis}. Compare the end of the line with the dashed line, "
        "which is the textbook's result for that variant on The Time Machine. A large learning "
        "rate causes spikes.",
    ),
    Figure(
        name="overfitting",
        pipeline="main",
        heading="Learning",
        draw=lambda of, _: curves.overfitting(of.looks, of.train_curves, of.val_curves, of.axis),
        alt="Line charts of validation and training perplexity by {axis} on a log scale, one panel "
        "per variant, with the best {axis} marked.",
        caption="Validation and training perplexity by {axis}. If the validation line rises while "
        "the training line falls, the model memorises its text. During training the validation "
        "split is read in several rows at once, so the last value differs from the one in the "
        "results table, for which the split is read in one piece.",
    ),
    Figure(
        name="coverage",
        pipeline="main",
        heading="Learning",
        draw=lambda of, _: coverage.coverage(of.looks, of.coverage),
        alt="Dot plot of perplexity, and of the shares of targets and loss, by how often a target "
        "was trained.",
        caption="Loss on the training split, read in one piece, by how often a target was trained. "
        "An epoch can leave out the tokens before its random offset and those that do not fill a "
        "minibatch. If a mark in the lower part is above the grey bar, these targets have a larger "
        "share of the loss than of all targets.",
    ),
    Figure(
        name="speed",
        pipeline="main",
        heading="Learning",
        draw=lambda of, _: curves.speed(of.looks, of.timings, of.axis),
        alt="Bar chart of training speed in tokens per second by variant.",
        caption="Training speed on the machine that trained the models. Compare the bars with each "
        "other, not with those of another machine.",
    ),
    Figure(
        name="held_out",
        pipeline="analysis",
        heading="On unseen text",
        draw=lambda of, _: held_out.held_out(of.looks, of.summary, of.unit),
        alt="Dot plot of bits per token on each split, one row per model or baseline.",
        caption="Models and baselines, ordered by their bits per token on the validation split; "
        "the best is on top. The further a model's training result is from its results on unseen "
        "text, the more it overfits. A star is a model at its best epoch. This epoch was chosen on "
        "the validation split, so the star is an optimistic estimate.",
    ),
    Figure(
        name="calibration",
        pipeline="main",
        heading="On unseen text",
        draw=lambda of, _: uncertainty.calibration(of.looks, of.uncertainty),
        alt="Reliability diagrams of each variant on the training, validation and test splits: "
        "accuracy by confidence.",
        caption="Accuracy of the top prediction by the model's confidence in it. A model is "
        "calibrated if its points are on the diagonal and overconfident if they are below it. "
        "Lines are 95 % Wilson intervals, which treat the predictions as independent. The "
        "calibration error is the mean vertical distance of the points from the diagonal, weighted "
        "by their shares of the predictions.",
    ),
    Figure(
        name="uncertainty",
        pipeline="main",
        heading="On unseen text",
        draw=lambda of, _: uncertainty.where_uncertain(of.looks, of.uncertainty),
        alt="Dot plot of the reached and the expected perplexity by place in the word and kind of "
        "character.",
        caption="A marker is the perplexity that the model reaches. A dash is the perplexity that "
        "it expects, 2 to the power of the mean entropy of its predictions. The further the marker "
        "is above the dash, the more overconfident the model is. If there are several variants, "
        "the title gives geometric means. The two splits have different scales.",
    ),
    Figure(
        name="context",
        pipeline="analysis",
        heading="Memory",
        draw=lambda of, _: memory.context(of.gated_looks, of.gates, of.unit),
        alt="Line charts of the loss and the accuracy by the number of tokens that the model is "
        "given, for each variant, on training and on unseen text.",
        caption="Loss and accuracy by the number of tokens that the model reads before the one to "
        "predict. If a line is level, more context does not help; if a line of "
        "bits rises, more context misleads the model. Recalibrated means that one factor per point "
        "makes the probabilities less or more extreme, which removes the effect of overconfidence. "
        "Lines are means over the trainings, bands are ranges.",
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
        caption="A test of the textbook's claim that reset gates capture short-term and update "
        "gates long-term dependencies, on the training text. Each gate is blended towards its mean "
        "until the loss with the most context has risen by the same amount. If near context "
        "depends more on the reset gate, its line is the higher one at short contexts, and the "
        "difference below is above zero. Bits are recalibrated as in the previous figure.",
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
        caption="Share of the units with at most a given time constant, which is the number of "
        "tokens after which a unit's mean update gate alone leaves 1/e of its state. The marker is "
        "the median unit. If a line is steep, the units are alike; if it reaches 100 % late, some "
        "have a long memory.",
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
        caption="Mean of each gate at the first letter of a word, inside a word and at white "
        "space. If a gate does not depend on the text, it has the same mean at all three places.",
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
        caption="Each column is a token, each row a unit, ordered by time constant. If there are "
        "more than 48 units, 48 are shown at equal steps of that order; the percentages in the "
        "title are of all units. If a column differs from its neighbours, many gates react to that "
        "token. If a row has one colour, the unit's gate depends little on the text.",
        needs_gates=True,
    ),
)
