"""Compare settings over their seeds in a table and a picture, and find the best one.

    python -m tools.compare 'sweep-*'
    python -m tools.compare main my-branch 1a2b3c4 workspace --metric test

The arguments are experiments (``*`` and ``?`` match their names), branches, tags, commits and
``workspace``. Revisions whose params differ only in train.seed are runs of one setting. If runs of
one setting have the same seed and different results, they are split into settings by code and data.
Revisions measured on different data (corpus, splits or vocabulary) are refused, but the same text
in characters and in byte pairs is compared by bits per character, otherwise by perplexity. The tool
writes compare.md, compare.csv and compare.png.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gru_lm.core.errors import UserError, one_line, run_main, say
from gru_lm.core.files import write_bytes, write_text
from tools.comparable import Measure, common_measure
from tools.markdown import code, table
from tools.pictures import Row, comparison
from tools.revisions import SEED, Revision, find_revisions, hashes, natural

SPLIT_NAMES: Final = {"val": "validation", "test": "test"}

# With this many seeds on both sides the normal distribution approximates Student's t.
MANY: Final = 30


@dataclass(frozen=True)
class Run:
    """The results of one variant in one revision."""

    revision: str
    seed: Any
    value: float  # the perplexity, or the bits per character
    tokens_per_second: float | None
    curve: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Group:
    """All runs of one variant with one setting. ``setting`` has the params that differ."""

    variant: str
    setting: Mapping[str, str]
    runs: Sequence[Run]

    @property
    def label(self) -> str:
        pairs = [f"{key}={value}" for key, value in self.setting.items()]
        return ", ".join(pairs) or "same params"

    @property
    def values(self) -> list[float]:
        return [run.value for run in self.runs]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation, or None for a single run."""
        return statistics.stdev(self.values) if len(self.runs) > 1 else None

    @property
    def num_seeds(self) -> int:
        return len({show(run.seed) for run in self.runs})

    @property
    def tokens_per_second(self) -> float | None:
        speeds = [run.tokens_per_second for run in self.runs if run.tokens_per_second is not None]
        return statistics.fmean(speeds) if speeds else None


def show(value: Any) -> str:
    """Format a param's value as in params.yaml. 1 and 1.0 are the same."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def measured(revision: Revision, variant: str, split: str, measure: Measure) -> float | None:
    """Return the result of a variant on ``split``, or None if the revision does not have it."""
    if measure == "perplexity":
        return revision.perplexity(variant, split)
    return revision.bits_per_character(variant, split)


def group_runs(
    revisions: Sequence[Revision], split: str, measure: Measure = "perplexity"
) -> list[Group]:
    """Group the runs by variant and setting, with the best setting of each variant first."""
    differing = differing_params(revisions)
    variants = list(dict.fromkeys(one for revision in revisions for one in revision.variants))
    groups = []
    for variant in variants:
        read = {key for one in revisions for name in _stages(variant) for key in one.read_by(name)}
        own = f"model.{variant}."  # written to a file by the stage params
        keys = [key for key in differing if key in read or not read or key.startswith(own)]
        groups += _group_variant(variant, revisions, split, measure, keys)
    return groups


def _stages(variant: str) -> list[str]:
    """Return the stages that a variant's perplexity depends on."""
    return ["fetch", "prepare", f"train@{variant}", f"evaluate@{variant}"]


def differing_params(revisions: Sequence[Revision]) -> list[str]:
    """Return the keys other than the seed whose values differ between revisions."""
    keys = sorted({key for revision in revisions for key in revision.params} - {SEED})
    return [key for key in keys if len({_param(revision, key) for revision in revisions}) > 1]


def _group_variant(
    variant: str,
    revisions: Sequence[Revision],
    split: str,
    measure: Measure,
    keys: Sequence[str],
) -> list[Group]:
    members: dict[tuple[str, ...], list[tuple[Revision, Run]]] = {}
    for revision in revisions:
        value = measured(revision, variant, split, measure)
        if value is None:
            continue
        run = Run(
            revision.name,
            revision.params.get(SEED),
            value,
            revision.metric("timing", variant, "tokens_per_second"),
            revision.curves.get(variant, []),
        )
        members.setdefault(tuple(_param(revision, key) for key in keys), []).append((revision, run))
    groups = []
    for values, pairs in members.items():
        setting = dict(zip(keys, values, strict=True))
        by_input = _by_input(variant, pairs) if _seeds_disagree(pairs) else {"": pairs}
        for first, same in by_input.items():
            named = setting | ({"code and data": f"as in {first}"} if len(by_input) > 1 else {})
            groups.append(Group(variant, named, _without_repeats([run for _, run in same])))
    return sorted(groups, key=lambda group: (group.mean, natural(group.label)))


def _seeds_disagree(pairs: Sequence[tuple[Revision, Run]]) -> bool:
    """Return whether two runs with the same setting and seed have different results."""
    results = {(show(run.seed), run.value) for _, run in pairs}
    return len(results) > len({seed for seed, _ in results})


def _by_input(
    variant: str, pairs: Sequence[tuple[Revision, Run]]
) -> dict[str, list[tuple[Revision, Run]]]:
    """Group the runs by the inputs of their training and evaluation.

    The key is the name of the first revision of each group.
    """
    found: dict[str, list[tuple[Revision, Run]]] = {}
    for pair in pairs:
        stages = [pair[0].lock.get(name, {}) for name in _stages(variant)]
        deps = [dep for stage in stages for dep in hashes(stage, "deps")]
        # Outputs of the training are results, not inputs.
        inputs = [dep for dep in deps if not dep[0].startswith(("training/", "models/"))]
        found.setdefault(repr(inputs), []).append(pair)
    return {same[0][0].name: same for same in found.values()}


def _without_repeats(runs: Sequence[Run]) -> list[Run]:
    """Return one run per seed and result, as repeated results are no additional evidence."""
    found: dict[tuple[str, float], Run] = {}
    for run in runs:
        found.setdefault((show(run.seed), run.value), run)
    return list(found.values())


def _param(revision: Revision, key: str) -> str:
    return show(revision.params[key]) if key in revision.params else "absent"


def winner(groups: Sequence[Group], unit: str, quote: Callable[[str], str] = str) -> str:
    """Describe the best of one variant's ``groups``, which are sorted by their means.

    ``unit`` is what was measured, such as "validation perplexity". ``quote`` formats the names of
    variants and settings.
    """
    best = groups[0]
    variant, label = quote(best.variant), quote(best.label)
    if len(groups) == 1:
        return f"{variant}: only one setting ({label}), {unit} {best.mean:.4g}."
    second = groups[1]
    gap = second.mean - best.mean
    found = (
        f"has the lowest mean {unit}, {best.mean:.4g}; next is {quote(second.label)} with "
        f"{second.mean:.4g}, {gap:.3g} higher"
    )
    single = [quote(group.label) for group in (best, second) if group.deviation is None]
    if single:
        return (
            f"{variant}: {label} {found}. There is only one seed of "
            f"{single[0] if len(single) == 1 else 'both'}, so other seeds may give another order."
        )
    error = math.sqrt(sum(statistics.variance(g.values) / len(g.runs) for g in (best, second)))
    uncertainty = f"the standard error of the difference is {error:.2g}"
    if min(len(best.runs), len(second.runs)) >= MANY:
        reach = statistics.NormalDist().inv_cdf(0.975) * error
        uncertainty += f", its 95 % interval {gap - reach:.3g} to {gap + reach:.3g}"
    uncertainty += f" ({best.num_seeds} and {second.num_seeds} seeds)"
    if gap < 2 * error or gap == 0:
        return (
            f"{variant}: no clear winner. {label} {found}, which is within the noise: "
            f"{uncertainty}."
        )
    return f"{variant}: **{label}** wins. It {found}, beyond the noise: {uncertainty}."


def markdown(groups: Sequence[Group], unit: str, missing: Sequence[str]) -> str:
    """Return the report with the winner of each variant, the picture and the table."""
    lines = [f"# Settings by {unit}", ""]
    for variant in _variants(groups):
        lines.append(f"- {winner([g for g in groups if g.variant == variant], unit, code)}")
    lines += ["", f"![Training curves, and {unit} by setting](compare.png)", ""]
    header = ["variant", "setting", "seeds", "mean", "standard deviation", "min", "max", "tokens/s"]
    rows = []
    for group in groups:
        numbers = [group.mean, group.deviation, min(group.values), max(group.values)]
        speed = group.tokens_per_second
        rows.append(
            [code(group.variant), code(group.label), str(group.num_seeds)]
            + ["-" if number is None else f"{number:.4g}" for number in numbers]
            + ["-" if speed is None else f"{speed:,.0f}"]
        )
    lines.append(table(header, rows))
    lines += [
        "",
        "Differences of at least two standard errors count as more than noise. With fewer than ten",
        "seeds the confidence is below 95 %. The best of many settings is partly luck, so confirm",
        "a winner with new seeds.",
    ]
    if missing:
        lines += ["", f"Without {unit}: {', '.join(map(code, missing))}."]
    return "\n".join(lines) + "\n"


def csv_table(groups: Sequence[Group]) -> str:
    """Return the groups as CSV with one column per differing param and unrounded numbers."""
    keys = list(dict.fromkeys(key for group in groups for key in group.setting))
    names = ["seeds", "mean", "standard_deviation", "min", "max", "tokens_per_second"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["variant", *keys, *names, "revisions"])
    for group in groups:
        writer.writerow(
            [
                group.variant,
                *(group.setting.get(key) for key in keys),
                group.num_seeds,
                group.mean,
                group.deviation,
                min(group.values),
                max(group.values),
                group.tokens_per_second,
                " ".join(run.revision for run in group.runs),
            ]
        )
    return buffer.getvalue()


def compare(names: Sequence[str], split: str, output: Path) -> tuple[list[Group], str]:
    """Write the three files. Returns the groups and what was measured."""
    revisions = find_revisions(list(names))
    with_results = [r for r in revisions if any(r.perplexity(v, split) for v in r.variants)]
    if not with_results:
        raise UserError(f"no perplexity on {split} in {', '.join(names)}: run dvc repro there")
    measure = common_measure(with_results)
    unit = f"{SPLIT_NAMES[split]} {measure}"
    groups = group_runs(with_results, split, measure)
    variants = _variants(groups)
    missing = [revision.name for revision in revisions if revision not in with_results]
    write_text(output / "compare.md", markdown(groups, unit, missing))
    write_text(output / "compare.csv", csv_table(groups))
    rows = {
        variant: [
            Row(group.label, group.values, [run.curve for run in group.runs])
            for group in groups
            if group.variant == variant
        ]
        for variant in variants
    }
    write_bytes(output / "compare.png", comparison(rows, unit))
    return groups, unit


def _variants(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(group.variant for group in groups))


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare settings over their seeds.")
    parser.add_argument("names", nargs="+", metavar="NAME", help="experiment, pattern or revision")
    parser.add_argument("--metric", choices=SPLIT_NAMES, default="val", help="the split")
    parser.add_argument("--output", type=Path, default=Path("comparison"), metavar="DIR")
    given = parser.parse_args()
    groups, unit = compare(given.names, given.metric, given.output)
    for variant in _variants(groups):
        print(one_line(winner([one for one in groups if one.variant == variant], unit)))
    say("compare", f"wrote {given.output}/compare.md, compare.csv and compare.png")


if __name__ == "__main__":
    run_main("compare", main)
