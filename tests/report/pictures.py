"""What the tests of the drawing modules share."""

import struct
import warnings
from contextlib import contextmanager

from examples import CARDS, VARIANTS

from gru_lm.report.style import looks

LOOKS = looks({name: CARDS[name] for name in VARIANTS})
ONE = looks({"concise": CARDS["concise"]})


@contextmanager
def strict():
    """A missing glyph, a figure without room or an empty slice, all warnings, are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def is_picture(png):
    """Whether ``png`` is a PNG of the common width: 7.6 inches at 150 dots per inch."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">I", png[16:20]) == (1140,)
    return True
