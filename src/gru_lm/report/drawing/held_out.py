"""The picture of models and baselines on text that they have not seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gru_lm.report.drawing import findings
from gru_lm.report.style import GREY, Look, key, key_below, new_figure, to_png
from gru_lm.report.wording import SPLIT_NAMES
from gru_lm.results.seeds import Summary

COMPRESSORS: Final = ("xz", "bzip2")


def held_out(looks: Mapping[str, Look], summary: Summary, unit: str) -> bytes:
    """Bits per token on each split, one row per predictor, the best on validation on top: a PNG.

    A token is a ``unit``: a character, or a word.
    """
    models = summary.models
    bits = {split: findings.bits_per_token(summary, split) for split in SPLIT_NAMES}
    order = sorted(bits["val"], key=bits["val"].__getitem__, reverse=True)
    colours = {name: looks[name].colour if name in models else GREY for name in order}
    figure, axes = new_figure(height=1.6 + 0.3 * len(order))
    right: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 9}
    for row, name in enumerate(order):
        colour = colours[name]
        marker = "o" if name in models else "s" if name in COMPRESSORS else "D"
        value, label = bits["val"][name], f"{bits['val'][name]:.2f}"
        axes.plot([0, value], [row, row], color=colour, lw=1, alpha=0.3, zorder=1)
        axes.plot(bits["train"][name], row, "|", color=colour, ms=10, mew=1.6)
        axes.plot(bits["test"][name], row, marker, mfc="white", mec=colour, ms=6)
        if name in models:
            sd, best = models[name].val.bits_per_token.sd, models[name].best_val
            if sd is not None:
                axes.errorbar(
                    value, row, xerr=sd, color=colour, elinewidth=1.5, capsize=5, zorder=4
                )
                label += f" ± {sd:.2f}"
            if best is not None:
                axes.plot(best.bits_per_token.mean, row, "*", color=colour, mec="white", ms=12)
        axes.plot(value, row, marker, color=colour, mec="white", ms=8)
        axes.text(1.01, row, label, color=colour, **right)
    axes.text(1.01, len(order) - 0.3, "validation", **right)
    labels = [looks[name].label if name in models else _baseline(name, unit) for name in order]
    axes.set_yticks(range(len(order)), labels, fontsize=9)
    for tick, name in zip(axes.get_yticklabels(), order, strict=True):
        tick.set_color(colours[name] if name in models else "black")
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"bits per {unit} (lower is better)")
    axes.set_title(findings.held_out(summary, unit), x=0.36)
    _key(figure, next(iter(looks.values())).colour, len(summary.seeds))
    return to_png(figure)


def _key(figure: Any, colour: str, seeds: int) -> None:
    spread = f"mean of {seeds} seeds ± standard deviation" if seeds > 1 else "one seed"
    handles = [
        key("black", "validation", marker="o", ms=8, mec="white", ls=""),
        key("black", "test", marker="o", ms=6, mfc="white", ls=""),
        key("black", "training", marker="|", ms=10, mew=1.6, ls=""),
        key(colour, f"model ({spread})", marker="o", ls=""),
        key(colour, "model at its best epoch", marker="*", ms=11, ls=""),
        key(GREY, "n-gram", marker="D", ls=""),
        key(GREY, "compressor", marker="s", ls=""),
    ]
    key_below(figure, handles, ncols=4, fontsize=8.5, handletextpad=0.2, columnspacing=1.1)


def _baseline(name: str, unit: str) -> str:
    """A baseline's label on the axis."""
    if name.endswith("-gram"):
        return f"{name} Kneser-Ney"
    return {"uniform": "uniform (blind guess)", "unigram": f"unigram ({unit} counts)"}.get(
        name, name
    )
