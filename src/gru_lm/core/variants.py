"""Which variants of the model there are: the folders beside ``models/base.py`` that describe one.

A variant is a folder ``models/<name>/`` with ``settings.py`` (what it is called, and its options in
params.yaml) and ``model.py`` (its class, ``Model``). Nothing else lists the variants; docs/
new-variant.md adds one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NewType

from pydantic import AfterValidator

from gru_lm.core.params import did_you_mean

Variant = NewType("Variant", str)  # a name that ``checked`` has let through

MODELS = Path(__file__).resolve().parents[1] / "models"


def known_variants() -> list[Variant]:
    """The names of all variants, sorted."""
    return sorted(Variant(path.parent.name) for path in MODELS.glob("*/settings.py"))


def checked(name: str) -> Variant:
    """``name`` as a Variant. Raises ValueError if no variant is called so."""
    known = known_variants()
    if name not in known:
        raise ValueError(
            f"{name!r} is no variant"
            + did_you_mean(name, [str(one) for one in known])
            + f"; there are: {', '.join(known)}"
        )
    return Variant(name)


VariantField = Annotated[str, AfterValidator(checked)]  # of params.yaml
