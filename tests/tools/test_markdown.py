"""Any text is shown unchanged when a report is rendered."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rendered import Rendered, without_spaces

from tools.markdown import code, table

HOSTILE = [
    "![x](/proc/self/environ)",
    "[x](javascript:alert(1))",
    "@octocat and #12, :tada: https://example.org www.example.org",
    "<img src=x onerror=alert(1)> <!-- </code><b>",
    "&#64;octocat &lt;b&gt; &amp;",
    "`a` ``b`` ```c",
    "a | b",
    "a \\| b \\",
    "\\`a\\`",
    "**a** _b_ ~~c~~ $d$",
    "# a\n- b\r\n1. c\u2028> d\r| e |\n|---|\n```\nf",
]

MARKUP = st.text(st.sampled_from("`|\\<>&#;![]()*_~@$:/-=ab \n"), max_size=30)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_code(text: str) -> None:
    check(text)


@given(MARKUP | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
@example("")
def test_any_text_is_code(text: str) -> None:
    check(text)


def check(text: str) -> None:
    """Assert that ``text`` is shown as it is, alone and in the first cell of a table."""
    shown = without_spaces(text) if "".join(text.splitlines()) else '""'
    for markdown in (f"# {code(text)}", table(["name", "value"], [[code(text), "next"]])):
        page = Rendered(markdown)
        assert page.tags <= {"h1", "table", "thead", "tbody", "tr", "th", "td", "code", "br"}
        assert without_spaces("".join(page.code)) == shown
        assert without_spaces(page.text) in ("", "namevaluenext")
