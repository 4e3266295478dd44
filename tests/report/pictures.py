"""Helpers of the tests of the drawing modules."""

import struct
import warnings
from contextlib import contextmanager

from examples import CARDS, VARIANTS

from gru_lm.report.style import looks

LOOKS = looks({name: CARDS[name] for name in VARIANTS})
ONE = looks({"concise": CARDS["concise"]})


@contextmanager
def strict():
    """Turn warnings into errors, such as a missing glyph, a failed layout or an empty slice."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def is_picture(png):
    """Assert that ``png`` is a PNG of the common width, 7.6 inches at 150 dots per inch."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">I", png[16:20]) == (1140,)
    return True
