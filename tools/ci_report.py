"""Report how a change affects the pipeline's results, for a pull request.

    python -m tools.ci_report --base main --output ci-report

This compares a revision (``--head``, the workspace by default) with an earlier one and writes
report.md and curves.png. It only reads results, so run ``dvc repro -P`` first.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gru_lm.core.errors import run_main, say
from gru_lm.core.files import write_bytes, write_text
from tools.compare import show
from tools.gate import Verdict, judge, rule
from tools.markdown import code, table
from tools.pictures import overlay
from tools.revisions import WORKSPACE, Revision, find_revision, hashes, natural

ABSENT: Final = object()

# Suffixes of metrics for which less is better, and for which more is better.
LESS: Final = ("perplexity",)
MORE: Final = ("tokens_per_second",)

# Bits are redundant beside perplexity, and seconds have their own section.
ELSEWHERE: Final = ("bits_per_token", "seconds")

SKIPPED: Final = "skipped"


def report(base: Revision, head: Revision, verdict: Verdict) -> str:
    """Return the text of report.md."""
    stages = compare_stages(base, head)
    stale = stale_files(head)
    title = f"# {code(head.name)} against {code(base.name)}"
    if _all_alike(base, head, stages) and not stale:
        return f"{title}\n\nNothing changed: params, stages and results are the same.\n"
    gate = f"**Gate: {'passed' if verdict.passed else 'failed'}.** {code(verdict.reason)}"
    parts = [title, headline(base, head, stages), gate]
    if stale:
        parts.append(
            "**Results out of date.** They were made with other versions of: "
            f"{', '.join(map(code, stale))}. Run `dvc repro -P` and commit the results."
        )
    sections = {
        "Held-out perplexity over the seeds": gate_table(base, head, verdict),
        "Metrics": metrics_table(base, head),
        "Training curves": curves_text(base, head),
        "Params": params_table(base.params, head.params),
        "Samples": samples_table(base, head),
        "Stages": stages_table(stages),
        "Seconds by stage": seconds_table(base, head, stages),
    }
    parts += [f"## {heading}\n\n{body}" for heading, body in sections.items()]
    return "\n\n".join(parts) + "\n"


def headline(base: Revision, head: Revision, stages: Mapping[str, str]) -> str:
    """Summarise the changes in one sentence."""
    params = len(differences(base.params, head.params))
    ran = [name for name, what in stages.items() if what != SKIPPED]
    return (
        f"{params or 'No'} param{'s'[: params != 1]} changed; {len(ran)} of {len(stages)} stages "
        "ran, were added or were removed."
    )


def gate_table(base: Revision, head: Revision, verdict: Verdict) -> str:
    """Return a table of the gate's comparison, and notes on its tolerance."""
    rows = [
        [
            code(change.variant),
            *(
                f"{mean:.4g} (of {', '.join(f'{value:.4g}' for value in by_seed.values())})"
                for mean, by_seed in zip(change.means, (change.base, change.head), strict=True)
            ),
            f"{change.rise:+.1%}",
            f"{change.tolerance:+.1%}",
            "passed" if change.passed else "failed",
        ]
        for change in verdict.changes
    ]
    names = [f"mean of {code(one.name)}" for one in (base, head)]
    header = ["variant", *names, "rise", "tolerance", ""]
    parts = [table(header, rows)] if rows else ["Nothing was compared."]
    return "\n\n".join([*parts, *map(code, verdict.notes)])


def metrics_table(base: Revision, head: Revision) -> str:
    """Return a table of the metrics that differ, and of held-out perplexity in any case."""
    rows, same = [], 0
    old_values, new_values = _metrics(base), _metrics(head)
    for key in sorted(old_values.keys() | new_values.keys(), key=_metric_order):
        kind, name, field = key
        old, new = old_values.get(key), new_values.get(key)
        kept = kind == "evaluate" and field in ("val.perplexity", "test.perplexity")
        if old == new and not kept:
            same += 1
            continue
        rows.append(
            [code(f"{name} {kind} {field}"), _number(old), _number(new), *_change(field, old, new)]
        )
    if not rows:
        return "None recorded." if not same else "All the same."
    text = table(["metric", *_names(base, head), "change", "verdict"], rows)
    return text + (f"\n\nThe other {same} values are the same." if same else "")


def _metrics(revision: Revision) -> dict[tuple[str, str, str], Any]:
    return {
        (kind, name, field): value
        for kind, by_name in revision.metrics.items()
        for name, fields in by_name.items()
        for field, value in fields.items()
        if not field.endswith(ELSEWHERE)
    }


def _metric_order(key: tuple[str, str, str]) -> tuple[Any, ...]:
    kind, name, field = key
    splits = {"val": 0, "test": 1, "train": 2}
    return (kind, name, splits.get(field.split(".")[0], 3), field)


def _change(field: str, old: Any, new: Any) -> tuple[str, str]:
    """Return the change as a number and as a word."""
    if old is None or new is None:
        return "-", _presence(old, new)
    if old == new:
        return "0", "same"
    if not isinstance(old, int | float) or not isinstance(new, int | float):
        return "-", "changed"
    share = f" ({new / old - 1:+.1%})" if old else ""
    size = f"{new - old:+,.0f}" if abs(new - old) >= 1000 else f"{new - old:+.3g}"
    return f"{size}{share}", judgement(field, old, new)


def judgement(field: str, old: float, new: float) -> str:
    """Return better, worse, same, or changed if neither direction is good."""
    if old == new:
        return "same"
    if field.endswith(LESS):
        return "better" if new < old else "worse"
    if field.endswith(MORE):
        return "better" if new > old else "worse"
    return "changed"


def curves_text(base: Revision, head: Revision) -> str:
    if not base.curves and not head.curves:
        return "None recorded."
    same = [name for name, curve in head.curves.items() if base.curves.get(name) == curve]
    note = f"\n\nThe same to the last digit: {', '.join(map(code, same))}." if same else ""
    return f"![Training perplexity of both revisions by epoch](curves.png){note}"


def curves_picture(base: Revision, head: Revision) -> bytes | None:
    """Draw the curves of both revisions as a PNG, or return None if there are none."""
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for variant in _variants(base, head):
        both = {
            f"{side}: {revision.name}": curve
            for side, revision in (("base", base), ("head", head))
            if (curve := revision.curves.get(variant))
        }
        if both:
            curves[variant] = both
    return overlay(curves) if curves else None


def params_table(base: Mapping[str, Any], head: Mapping[str, Any]) -> str:
    rows = [
        [code(key), _value(base.get(key, ABSENT)), _value(head.get(key, ABSENT))]
        for key in differences(base, head)
    ]
    return table(["param", "base", "head"], rows) if rows else "None changed."


def differences(base: Mapping[str, Any], head: Mapping[str, Any]) -> list[str]:
    """Return the keys that differ or that only one side has. 1 and true differ."""
    keys = sorted(base.keys() | head.keys(), key=natural)
    return [key for key in keys if _value(base.get(key, ABSENT)) != _value(head.get(key, ABSENT))]


def samples_table(base: Revision, head: Revision) -> str:
    """Return a table per variant with the texts of both revisions."""
    parts = []
    for variant in _variants(base, head):
        old, new = base.samples.get(variant, {}), head.samples.get(variant, {})
        if not old and not new:
            continue
        if old == new:
            parts.append(f"{code(variant)}: the same.")
            continue
        rows = [
            [
                code(heading),
                _text(old.get(heading)),
                "(the same)" if old.get(heading) == new.get(heading) else _text(new.get(heading)),
            ]
            for heading in dict.fromkeys([*new, *old])
        ]
        text = table(["drawn", *_names(base, head)], rows)
        parts.append(f"### {code(variant)}\n\n{text}")
    return "\n\n".join(parts) or "None recorded."


def compare_stages(base: Revision, head: Revision) -> dict[str, str]:
    """Return ``skipped`` or the reasons for a run by stage, in head's order."""
    found = {}
    for name in dict.fromkeys([*head.lock, *base.lock]):
        if name not in base.lock or name not in head.lock:
            found[name] = "new" if name in head.lock else "gone"
            continue
        reasons = _stage_changes(name, base, head)
        more = [f"and {len(reasons) - 4} more"] if len(reasons) > 4 else []
        found[name] = "; ".join([*reasons[:4], *more]) or SKIPPED
    return found


def _stage_changes(name: str, base: Revision, head: Revision) -> list[str]:
    old, new = base.lock[name], head.lock[name]
    reasons = [] if old.get("cmd") == new.get("cmd") else ["its command changed"]
    read = base.read_by(name), head.read_by(name)
    for key in differences(*read):
        reasons.append(f"{code(key)} {' → '.join(_value(side.get(key, ABSENT)) for side in read)}")
    old_deps, new_deps = dict(hashes(old, "deps")), dict(hashes(new, "deps"))
    for path in sorted(old_deps.keys() | new_deps.keys()):
        if old_deps.get(path) != new_deps.get(path):
            what = _presence(old_deps.get(path), new_deps.get(path)) or "changed"
            reasons.append(f"{code(path)} {what}")
    if not reasons and hashes(old, "outs") != hashes(new, "outs"):
        reasons.append("its outputs changed, with the same inputs")
    return reasons


def stale_files(revision: Revision) -> list[str]:
    """Return the files and folders whose hash differs from the one in the lock files."""
    recorded: dict[str, set[str]] = {}
    for stage in revision.lock.values():
        for path, md5 in hashes(stage, "deps"):
            recorded.setdefault(path, set()).add(md5)
    return [
        path
        for path, found in sorted(recorded.items())
        if (now := _hash_now(revision, path)) is not None and found != {now}
    ]


def _hash_now(revision: Revision, path: str) -> str | None:
    """Return DVC's hash of a file or folder, or None if git does not have all of it."""
    if (own := revision.md5(path)) is not None:
        return own
    inside = revision.listing(path)
    made = [one.removeprefix(f"{path}/") for one in revision.outputs if one.startswith(f"{path}/")]
    if not inside or not {*made} <= {*inside}:
        return None
    entries = [{"md5": revision.md5(f"{path}/{name}"), "relpath": name} for name in sorted(inside)]
    listed = json.dumps(entries, sort_keys=True).encode()
    return hashlib.md5(listed, usedforsecurity=False).hexdigest() + ".dir"


def stages_table(stages: Mapping[str, str]) -> str:
    if not stages:
        return "The lock files record none."
    rows = []
    for name, what in stages.items():
        if what == SKIPPED:
            rows.append([code(name), "skipped", "command, deps, params and outputs are the same"])
        elif what in ("new", "gone"):
            rows.append([code(name), what, ""])
        else:
            rows.append([code(name), "ran", what])
    return table(["stage", "", "why"], rows) + (
        "\n\nThis compares the lock files, so *ran* includes results restored from the run cache."
    )


def seconds_table(base: Revision, head: Revision, stages: Mapping[str, str]) -> str:
    rows = []
    for variant in _variants(base, head):
        old, new = (side.metric("timing", variant, "seconds") for side in (base, head))
        if old is None and new is None:
            continue
        where = head.metrics.get("timing", {}).get(variant, {}).get("device", ABSENT)
        note = " (earlier run)" if stages.get(f"train@{variant}") == SKIPPED else ""
        seconds = ["-" if value is None else f"{value:,.1f}" for value in (old, new)]
        rows.append([code(f"train@{variant}"), seconds[0], seconds[1] + note, _value(where)])
    note = (
        "Only training records its time. Times are in DVC's cache, and missing ones are shown as -."
    )
    if not rows:
        return note
    return f"{table(['stage', *_names(base, head), 'device of head'], rows)}\n\n{note}"


def _all_alike(base: Revision, head: Revision, stages: Mapping[str, str]) -> bool:
    results = [(one.metrics, one.curves, one.samples, one.replicates) for one in (base, head)]
    return (
        all(what == SKIPPED for what in stages.values())
        and not differences(base.params, head.params)
        and results[0] == results[1]
    )


def _variants(base: Revision, head: Revision) -> list[str]:
    return list(dict.fromkeys([*head.variants, *base.variants]))


def _presence(old: Any, new: Any) -> str:
    """Return "new" or "gone" if one of the values is None, else ""."""
    if old is None:
        return "" if new is None else "new"
    return "gone" if new is None else ""


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.5g}"
    return _value(value)


def _value(value: Any) -> str:
    """Return a param's value for a cell. Texts and lists are code."""
    if value is ABSENT:
        return "-"
    return show(value) if value is None or isinstance(value, int | float) else code(show(value))


def _text(text: str | None) -> str:
    """Return a sample for a cell."""
    return "-" if text is None else code(text)


def _names(base: Revision, head: Revision) -> list[str]:
    return [code(base.name), code(head.name)]


def write_report(base: Revision, head: Revision, verdict: Verdict, output: Path) -> None:
    """Write report.md, and curves.png if there are curves."""
    text = report(base, head, verdict)
    picture = curves_picture(base, head) if "(curves.png)" in text else None
    (output / "curves.png").unlink(missing_ok=True)
    if picture:
        write_bytes(output / "curves.png", picture)
    write_text(output / "report.md", text)


def main() -> None:
    parser = argparse.ArgumentParser(description="Report how a change affects the results.")
    parser.add_argument("--base", required=True, help="revision or experiment to compare with")
    parser.add_argument("--head", default=WORKSPACE, help="changed revision (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    given = parser.parse_args()
    base, head = find_revision(given.base), find_revision(given.head)
    write_report(base, head, judge(base, head, rule()), given.output)
    say("ci_report", f"wrote {given.output}/report.md")


if __name__ == "__main__":
    run_main("ci_report", main)
