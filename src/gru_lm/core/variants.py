"""Find the model variants.

A variant is a folder ``models/<name>/``. Its ``settings.py`` defines the label, the description and
the options in params.yaml, and its ``model.py`` defines the class ``Model``. There is no other list
of variants. docs/new-variant.md shows how to add one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NewType

from pydantic import AfterValidator

from gru_lm.core.params import did_you_mean

Variant = NewType("Variant", str)  # a name validated by ``checked``

MODELS = Path(__file__).resolve().parents[1] / "models"


def known_variants() -> list[Variant]:
    """Return the names of all variants, sorted."""
    return sorted(Variant(path.parent.name) for path in MODELS.glob("*/settings.py"))


def checked(name: str) -> Variant:
    """Return ``name`` as a Variant. Raises ValueError if there is no variant of this name."""
    known = known_variants()
    if name not in known:
        raise ValueError(
            f"{name!r} is not a variant"
            + did_you_mean(name, [str(one) for one in known])
            + f"; choose from: {', '.join(known)}"
        )
    return Variant(name)


VariantField = Annotated[str, AfterValidator(checked)]  # a variant's name in params.yaml
