"""Markdown for reports whose names, params and texts may contain anything.

A pull request can put any text into params, samples and names of branches. As Markdown, such a text
could notify people or load pictures. It is therefore written as code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


def code(text: str) -> str:
    """Return ``text`` as inline code, also for a cell of a table. Each line is a code span.

    Nothing is special within a code span but its own fence and, in a table, ``|``. A line with one
    of them or with a backslash, which may escape them, is HTML instead. All its punctuation is
    written as numeric character references, which are never markup (CommonMark 0.31, section 2.5).
    """
    return "<br>".join(_line(line) for line in text.splitlines() if line) or '`""`'


def _line(line: str) -> str:
    if not set(line) & set("`|\\"):
        return f"`{line}`"
    escaped = re.sub(r"[!-/:-@\[-`{-~]", lambda found: f"&#{ord(found[0])};", line)
    return f"<code>{escaped}</code>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table. The cells are Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])
