"""Picture of the loss on the training split by how often its targets were trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from gru_lm.report.lettering import wrap
from gru_lm.report.style import (
    PAPER,
    SMALL,
    WIDTH,
    Look,
    empty_figure,
    headline,
    key,
    key_below,
    open_frame,
    percent_axis,
    plain_log_y,
    shift,
    to_png,
)
from gru_lm.report.wording import EN_DASH, figures, span
from gru_lm.results.coverage import Coverage, Trained

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS: Final[dict[Trained, str]] = {
    "never": "never",
    "<25%": "under 25 %",
    "25-50%": f"25{EN_DASH}50 %",
    "50-75%": f"50{EN_DASH}75 %",
    "75-100%": f"75{EN_DASH}100 %",
}
RARE: Final[tuple[Trained, ...]] = ("never", "<25%")
PALE: Final = "#D5D5D5"  # colour of the bars behind the marks


def coverage(looks: Mapping[str, Look], measured: Mapping[str, Coverage]) -> bytes:
    """Draw perplexity and the shares of targets and loss by how often a target was trained.

    The keys of ``measured`` are variants. A group that no variant has is left out. Returns a PNG.
    """
    figure = empty_figure(height=5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    shown = {name: measured[name] for name in looks}
    groups = [g for g in LABELS if any(g in one.by_times_trained for one in shown.values())]
    step = min(0.14, 0.7 / len(looks))
    for place, (name, look) in enumerate(looks.items()):
        beside = shift(place, len(looks), step)
        _variant(upper, lower, groups, shown[name], look, beside)
    right = shift(len(looks) - 1, len(looks), step)
    for x, group in enumerate(groups):
        found = [one.by_times_trained.get(group) for one in shown.values()]
        lower.bar(x, max(one.share if one else 0 for one in found), 0.86, color=PALE, zorder=0)
        losses = [one.loss_share if one else 0.0 for one in found]
        _note(lower, _percent(losses), (x, max(losses)), (0, 7), "center")
        if known := [one.perplexity for one in found if one and one.perplexity is not None]:
            _note(upper, span(known), (x + right, max(known)), (7, 4), "left")
    upper.set_yscale("log")
    low, high = _range(shown.values())
    upper.set_ylim(low * 0.9, 1.2 * high * (high / low) ** 0.1)
    plain_log_y(upper)
    upper.set_ylabel("perplexity of these\ntargets (log scale)")
    lower.set_ylim(0, 1.15 * max(_highest(shown.values()), 0.05))
    percent_axis(lower.yaxis)
    lower.set_ylabel("share of the targets\nand of the loss")
    lower.set_xticks(range(len(groups)), [_label(group, shown.values()) for group in groups])
    lower.set_xlim(-0.6, len(groups) - 0.2)
    lower.set_xlabel("share of the epochs in which a target was trained, and the number of targets")
    for axes in (upper, lower):
        open_frame(axes)
        axes.tick_params(axis="x", length=0)
    headline(figure, finding(list(shown.values())))
    handles = [
        key(look.colour, _name(look, shown[name]), marker=look.marker, ls=look.dash, lw=1.2)
        for name, look in looks.items()
    ]
    handles.append(key(PALE, "share of the targets (marks: of the loss)", lw=8))
    key_below(figure, handles, ncols=2)
    return to_png(figure)


def finding(measured: Sequence[Coverage]) -> str:
    """Return the title, which gives the loss of the targets trained in few epochs or none."""
    rare = [
        [found for name in RARE if (found := one.by_times_trained.get(name))] for one in measured
    ]
    total = f"{measured[0].overall.tokens:,}"
    if not any(rare):
        reached = [one.overall.perplexity for one in measured if one.overall.perplexity is not None]
        ends = f";\ntheir perplexity is {span(reached)}" if reached else ""
        return (
            f"Each of the {total} training targets was trained in at least 25 % of the epochs{ends}"
        )
    tokens = [sum(group.tokens for group in groups) for groups in rare]
    share = _percent(sum(group.share for group in groups) for groups in rare)
    loss = _percent(sum(group.loss_share for group in groups) for groups in rare)
    return (
        f"{loss} of the loss on the training split comes from the {span(tokens, '{:,}'.format)} of "
        f"{total} targets ({share})\nthat were trained in less than 25 % of the epochs or never"
    )


def _variant(
    upper: Axes,
    lower: Axes,
    groups: Sequence[Trained],
    measured: Coverage,
    look: Look,
    beside: float,
) -> None:
    """Draw a variant's perplexities in the upper axes and its shares of the loss in the lower."""
    found = [(x + beside, measured.by_times_trained.get(group)) for x, group in enumerate(groups)]
    mark: dict[str, Any] = {"marker": look.marker, "color": look.colour, "mec": PAPER, "ms": 7}
    known = [(x, one.perplexity) for x, one in found if one and one.perplexity is not None]
    if known:
        upper.plot(*zip(*known, strict=True), ls=look.dash, lw=1.2, **mark)
    for x, one in found:
        if one:
            lower.plot([x, x], [0, one.loss_share], color=look.colour, ls=look.dash, lw=1.6)
            lower.plot(x, one.loss_share, clip_on=False, **mark)


def _note(
    axes: Axes, text: str, point: tuple[float, float], offset: tuple[float, float], side: str
) -> None:
    """Write ``text`` at ``offset`` points from ``point``, legible over lines and bars."""
    ground = {"facecolor": PAPER, "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
    axes.annotate(
        text, point, offset, textcoords="offset points", ha=side, fontsize=SMALL, bbox=ground
    )


def _name(look: Look, measured: Coverage) -> str:
    """Return the variant's name and its perplexity on the whole split."""
    reached = measured.overall.perplexity
    name = look.name if reached is None else f"{look.name}: {figures(reached)} on all targets"
    return wrap(name, WIDTH / 2 - 0.6, SMALL)


def _label(group: Trained, measured: Iterable[Coverage]) -> str:
    """Return the group's name, its number of targets and their share of all targets."""
    found = [one.by_times_trained.get(group) for one in measured]
    tokens = span((one.tokens if one else 0 for one in found), "{:,}".format)
    return f"{LABELS[group]}\n{tokens} ({_percent(one.share if one else 0 for one in found)})"


def _range(measured: Iterable[Coverage]) -> tuple[float, float]:
    """Return the lowest and the highest perplexity, or 1 and 1 if no group has one."""
    groups = [group for one in measured for group in one.by_times_trained.values()]
    known = [group.perplexity for group in groups if group.perplexity is not None]
    return min(known, default=1.0), max(known, default=1.0)


def _highest(measured: Iterable[Coverage]) -> float:
    groups = [group for one in measured for group in one.by_times_trained.values()]
    return max(max(group.share, group.loss_share) for group in groups)


def _percent(shares: Iterable[float]) -> str:
    """Write the range of ``shares`` in per cent, with one decimal place below 10."""

    def write(value: float) -> str:
        return f"{value:.0f}" if value >= 9.95 or value == 0 else f"{value:.1f}"

    return span((100 * share for share in shares), write) + " %"
