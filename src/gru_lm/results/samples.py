"""The text that a variant generates, in ``samples/<variant>.txt``.

A heading (``greedy`` or ``temperature 0.5``) starts at the margin, each text below it is indented
by two spaces, and an empty line ends the section. A line break within a text is followed by a tab,
so that the texts can be separated again::

    greedy
      time traveller said
      a text
    →of two lines
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from gru_lm.core.errors import DamagedFile
from gru_lm.core.files import write_text
from gru_lm.results import read_text

LARGEST = 1 << 28  # bytes of the file

Samples = Mapping[str, Sequence[str]]  # by heading, the text after each prefix


def heading(temperature: float | None) -> str:
    """Return the heading of the texts sampled at ``temperature``; None is greedy decoding."""
    return "greedy" if temperature is None else f"temperature {temperature:g}"


def format_samples(samples: Samples) -> str:
    """Return the text of the file for ``samples``."""
    lines = []
    for name, texts in samples.items():
        lines += [name, *("  " + text.replace("\n", "\n\t") for text in texts), ""]
    return "\n".join(lines)


def parse_samples(text: str) -> dict[str, list[str]]:
    """Return the samples from which ``format_samples`` made ``text``.

    Raises ValueError, with the line number, if the text has another format.
    """
    samples: dict[str, list[str]] = {}
    texts: list[str] | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        if re.fullmatch(r"greedy|temperature \S+", line):
            if line in samples:
                raise ValueError(f"line {number}: duplicate heading '{line}'")
            if not _is_heading(line):
                raise ValueError(f"line {number}: the temperature is not a number above zero")
            texts = samples[line] = []
        elif texts is not None and line.startswith("  "):
            texts.append(line[2:])
        elif texts and line.startswith("\t"):
            texts[-1] += "\n" + line[1:]
        elif line:
            raise ValueError(f"line {number}: this is neither a heading nor a text below one")
    if not any(samples.values()):
        raise ValueError("it has no text below a heading such as 'greedy'")
    return samples


def _is_heading(line: str) -> bool:
    """Return whether ``heading`` returns ``line`` for some temperature."""
    try:
        temperature = None if line == "greedy" else float(line.removeprefix("temperature "))
    except ValueError:
        return False
    return temperature is None or (0 < temperature < math.inf and heading(temperature) == line)


def write_samples(path: Path, samples: Samples) -> None:
    """Write ``samples`` to ``path``, atomically."""
    write_text(path, format_samples(samples))


def read_samples(path: Path) -> dict[str, list[str]]:
    """Read the samples that ``write_samples`` wrote to ``path``. Raises UnusableFile."""
    try:
        return parse_samples(read_text(path, LARGEST))
    except ValueError as error:
        raise DamagedFile(path, str(error)) from None
