"""Settings of the models: the section ``model`` of params.yaml."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, create_model

from gru_lm.core.params import Section, TopLevel
from gru_lm.core.variants import Variant, known_variants


class Model(Section):
    """The hidden size of all variants, and the options of each variant under its name."""

    hidden_size: Annotated[int, Field(ge=1, le=16_384)]

    def options(self, variant: Variant) -> dict[str, Any]:
        """Return the keyword arguments of a variant's constructor except the vocabulary size."""
        return {"hidden_size": self.hidden_size, **getattr(self, variant).model_dump()}


def _with_options() -> type[Model]:
    """Return ``Model`` with a field per variant, optional if all its options have defaults."""
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
