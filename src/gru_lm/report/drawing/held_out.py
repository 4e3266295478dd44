"""Picture of models and baselines on the training split and on unseen text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from gru_lm.report.drawing import findings
from gru_lm.report.lettering import wrap
from gru_lm.report.style import (
    GREY,
    INK,
    PAPER,
    SMALL,
    WIDTH,
    Look,
    headline,
    key,
    key_below,
    new_figure,
    to_png,
)
from gru_lm.report.wording import SPLIT_NAMES
from gru_lm.results.seeds import Spread, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COMPRESSORS: Final = ("xz", "bzip2")
MODEL, COMPRESSOR, N_GRAM = "o", "s", "D"  # markers
BELOW: Final = 0.36  # distance of the single seeds below the mean, in rows


def held_out(looks: Mapping[str, Look], summary: Summary, unit: str) -> bytes:
    """Draw bits per token on each split, one row per predictor, the best on validation on top.

    A token is a ``unit``, which is a character, a word or a token of byte pairs. Single seeds
    are below the mean of a model, all of up to three seeds, otherwise the lowest, median and
    highest. Returns a PNG.
    """
    models, seeds = summary.models, len(summary.seeds)
    bits = {split: findings.bits_per_token(summary, split) for split in SPLIT_NAMES}
    order = sorted(bits["val"], key=bits["val"].__getitem__, reverse=True)
    colours = {name: looks[name].colour if name in models else GREY for name in order}
    labels = [looks[name].label if name in models else _baseline(name, unit) for name in order]
    labels = [wrap(label, WIDTH * 0.3, SMALL) for label in labels]
    lines = 1 + max(label.count("\n") for label in labels)
    figure, axes = new_figure(height=2 + max(0.3, 0.1 + 0.16 * lines) * len(order))
    right: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 9}
    for row, name in enumerate(order):
        colour = colours[name]
        marker = MODEL if name in models else COMPRESSOR if name in COMPRESSORS else N_GRAM
        value, label = bits["val"][name], f"{bits['val'][name]:.2f}"
        axes.plot([0, value], [row, row], color=colour, lw=1, alpha=0.3, zorder=1)
        axes.plot(bits["train"][name], row, "|", color=colour, ms=10, mew=1.6)
        axes.plot(bits["test"][name], row, marker, mfc=PAPER, mec=colour, ms=6)
        if name in models:
            one = models[name]
            _seeds(axes, one.val.bits_per_token, row, colour, seeds)
            _seeds(axes, one.test.bits_per_token, row, colour, seeds, mfc=PAPER)
            if one.val.bits_per_token.sd is not None:
                label += f" ± {one.val.bits_per_token.sd:.2f}"
            if one.best_val is not None:
                best = one.best_val.bits_per_token.mean
                axes.plot(best, row, "*", color=colour, mec=PAPER, ms=12)
        axes.plot(value, row, marker, color=colour, mec=PAPER, ms=7.5)
        axes.text(1.01, row, label, color=colour, **right)
    spread = "\nmean ± sd" if seeds > 1 else ""
    axes.text(1.01, len(order) - 0.2, f"validation{spread}", **right | {"va": "bottom"})
    axes.set_yticks(range(len(order)), labels, fontsize=SMALL)
    axes.set_ylim(-0.6, len(order) - 0.4)
    for tick, name in zip(axes.get_yticklabels(), order, strict=True):
        tick.set_color(colours[name] if name in models else INK)
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"bits per {unit} (lower is better)")
    headline(figure, findings.held_out(summary, unit))
    key_below(figure, _key(summary, colours), ncols=4, handletextpad=0.2, columnspacing=1.1)
    return to_png(figure)


def _seeds(axes: Axes, of: Spread, row: int, colour: str, seeds: int, **look: Any) -> None:
    """Draw a small dot for each of up to three seeds, or for the lowest, median and highest."""
    if seeds > 1:
        values = sorted({of.min, of.median if seeds > 2 else of.min, of.max})
        properties: dict[str, Any] = {"color": colour, "ms": 3, "mew": 0.8, "ls": ""} | look
        axes.plot(values, [row - BELOW] * len(values), marker=MODEL, **properties)


def _key(summary: Summary, colours: Mapping[str, str]) -> list[Any]:
    seeds, models = len(summary.seeds), summary.models
    single = "single seeds" if seeds <= 3 else "lowest, median and highest seed"
    spread = f"mean of {seeds} seeds" if seeds > 1 else "one seed"
    handles = [
        key(INK, "validation", marker=MODEL, ms=8, ls=""),
        key(INK, "test", marker=MODEL, ms=6, mfc=PAPER, ls=""),
        key(INK, "training", marker="|", ms=10, mew=1.6, ls=""),
    ]
    if any(name in COMPRESSORS for name in colours):
        handles.append(key(GREY, "compressor", marker=COMPRESSOR, ls=""))
    if any(name not in models and name not in COMPRESSORS for name in colours):
        handles.append(key(GREY, "n-gram", marker=N_GRAM, ls=""))
    handles.append(key(INK, f"model: {spread}", marker=MODEL, ls=""))
    if seeds > 1:
        handles.append(key(INK, single, marker=MODEL, ms=3, ls=""))
    if any(one.best_val for one in models.values()):
        text = "best epoch, chosen on validation"
        handles.append(key(INK, text, marker="*", ms=11, ls=""))
    return handles


def _baseline(name: str, unit: str) -> str:
    """Return the label of a baseline on the axis."""
    if name.endswith("-gram"):
        return f"{name} Kneser-Ney"
    return {"uniform": "uniform (blind guess)", "unigram": f"unigram ({unit} counts)"}.get(
        name, name
    )
