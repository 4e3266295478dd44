"""What concerns every part of the experiment: which variants run, and on what device."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from gru_lm.core.params import TopLevel
from gru_lm.core.variants import Variant, VariantField


class CoreSettings(TopLevel):
    """``variants``, each with a folder in models/, in the order in which all results list them.

    ``device`` auto is a CUDA GPU if there is one, else the CPU.
    """

    variants: Annotated[list[VariantField], Field(min_length=1, max_length=100)]
    device: Literal["auto", "cpu", "cuda"]

    @field_validator("variants")
    @classmethod
    def _distinct(cls, names: list[Variant]) -> list[Variant]:
        if len(set(names)) < len(names):
            raise ValueError("the variants must differ from each other")
        return names
