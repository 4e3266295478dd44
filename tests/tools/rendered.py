"""Markdown as a browser shows it, for the tests of the reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

from markdown_it import MarkdownIt

# The tags that the reports use.
OWN_TAGS = {"h1", "h2", "h3", "p", "ul", "li", "strong", "em", "code", "br", "img"}
OWN_TAGS |= {"table", "thead", "tbody", "tr", "th", "td"}


@dataclass
class Rendered(HTMLParser):
    """The tags, the code and the other text of a Markdown document.

    ``code`` has the code by paragraph, heading, list item or cell.
    """

    markdown: str
    tags: set[str] = field(default_factory=set)
    images: list[str | None] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._depth = 0
        renderer = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
        self.feed(renderer.render(self.markdown))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._depth += tag == "code"
        if tag == "img":
            self.images.append(dict(attrs).get("src"))
            self.text += dict(attrs).get("alt") or ""
        if tag not in ("code", "br", "strong", "em", "img"):
            self.code.append("")

    def handle_endtag(self, tag: str) -> None:
        self._depth -= tag == "code"

    def handle_data(self, data: str) -> None:
        if self._depth:
            self.code[-1] += data
        else:
            self.text += data

    def handle_comment(self, data: str) -> None:
        self.tags.add("<!--")

    def handle_decl(self, decl: str) -> None:
        self.tags.add("<!")

    def handle_pi(self, data: str) -> None:
        self.tags.add("<?")


def without_spaces(text: str) -> str:
    return "".join(text.split())
