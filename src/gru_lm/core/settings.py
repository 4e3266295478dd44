"""Settings for the whole experiment: the variants and the device."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from gru_lm.core.params import TopLevel
from gru_lm.core.variants import Variant, VariantField


class CoreSettings(TopLevel):
    """The variants to run and the device.

    Each of ``variants`` is a folder in models/. Results list them in this order. ``device: auto``
    selects a CUDA GPU if one is available, else the CPU.
    """

    variants: Annotated[list[VariantField], Field(min_length=1, max_length=100)]
    device: Literal["auto", "cpu", "cuda"]

    @field_validator("variants")
    @classmethod
    def _distinct(cls, names: list[Variant]) -> list[Variant]:
        if len(set(names)) < len(names):
            raise ValueError("each variant must be listed once")
        return names
