"""The sizes that all variants share, and each variant's options: the section ``model``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, create_model

from gru_lm.core.params import Section, TopLevel
from gru_lm.core.variants import Variant, known_variants


class Model(Section):
    """``hidden_size``, and under each variant's name what only that one has."""

    hidden_size: Annotated[int, Field(ge=1, le=16_384)]

    def options(self, variant: Variant) -> dict[str, Any]:
        """The keyword arguments of one variant's constructor, without the vocabulary size."""
        return {"hidden_size": self.hidden_size, **getattr(self, variant).model_dump()}


def _with_options() -> type[Model]:
    """``Model`` with a field for each variant; not required if all of its options have defaults."""
    fields: dict[str, Any] = {}
    for variant in known_variants():
        options = importlib.import_module(f"gru_lm.models.{variant}.settings").Options
        required = any(field.is_required() for field in options.model_fields.values())
        fields[variant] = (options, ... if required else options())
    return create_model("Model", __base__=Model, __doc__=Model.__doc__, **fields)


if TYPE_CHECKING:
    AnyModel = Model
else:
    AnyModel = _with_options()


class ModelSettings(TopLevel):
    """The model that is trained."""

    model: AnyModel
