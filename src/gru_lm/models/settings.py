"""Settings of the models: the section ``model`` of params.yaml."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, create_model, field_validator

from gru_lm.core.errors import UserError
from gru_lm.core.params import Section, TopLevel
from gru_lm.core.variants import MODELS, Variant, known_variants

Size = Annotated[int, Field(ge=1, le=16_384)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class Dropout(Section):
    """Probabilities that a number is set to zero in training (see ``models/stack.py``).

    They apply to the ``embedding`` of each token, to the states ``between`` two layers, to the last
    layer's states before the ``output`` layer, and to the ``recurrent`` weights. ``same_mask``
    uses the same mask at all steps of a minibatch. Recurrent weights always do.
    """

    embedding: Rate = 0.0
    between: Rate = 0.0
    output: Rate = 0.0
    recurrent: Rate = 0.0
    same_mask: bool = False


class Init(Section):
    """The distribution of the initial weights (see ``models/stack.py``).

    ``weights`` is that of all weights: the variant's own, normal(0, 0.01), or torch's uniform in
    ±1/sqrt(H). ``recurrent`` is that of the recurrent weights, if it is another. ``update_bias`` is
    added to the bias of the update gate.
    """

    weights: Literal["default", "normal", "torch"] = "default"
    recurrent: Literal["default", "orthogonal"] = "default"
    update_bias: Annotated[float, Field(ge=-100, le=100)] = 0.0


class Architecture(Section):
    """The settings that all variants share.

    With the defaults, a variant is the model of its ``model.py``, which has one layer and one-hot
    inputs. Otherwise it is a stack of its layers (``models/stack.py``). ``output`` is the softmax
    over the whole vocabulary or the adaptive one (``models/output.py``). An option that would have
    no effect is refused.
    """

    hidden_size: Size
    num_layers: Annotated[int, Field(ge=1, le=64)] = 1
    embedding_size: Size | None = None
    tie_weights: bool = False
    output: Literal["full", "adaptive"] = "full"
    dropout: Dropout = Dropout()
    init: Init = Init()

    @field_validator("tie_weights")
    @classmethod
    def _tied_matrices_have_one_shape(cls, tie: bool, info: ValidationInfo) -> bool:
        hidden, embedding = (info.data.get(key) for key in ("hidden_size", "embedding_size"))
        if tie and hidden != embedding:
            raise ValueError(
                f"the embedding and the output layer share a matrix only if model.embedding_size "
                f"is model.hidden_size ({hidden}): set it, or set tie_weights to false"
            )
        return tie

    @field_validator("output")
    @classmethod
    def _adaptive_output_is_possible(cls, output: str, info: ValidationInfo) -> str:
        if output == "adaptive" and info.data.get("tie_weights"):
            raise ValueError(
                "adaptive has smaller matrices for rarer tokens, and the embedding has one: set "
                "model.tie_weights to false, or set full"
            )
        if output == "adaptive" and info.data.get("hidden_size", 16) < 16:
            raise ValueError(
                "adaptive needs model.hidden_size of 16 or more: set that, or set full"
            )
        return output

    @field_validator("dropout")
    @classmethod
    def _dropout_has_an_effect(cls, dropout: Dropout, info: ValidationInfo) -> Dropout:
        if dropout.embedding and info.data.get("embedding_size", 1) is None:
            raise ValueError("embedding needs model.embedding_size: set that, or set 0")
        if dropout.between and info.data.get("num_layers", 2) == 1:
            raise ValueError("between needs model.num_layers of 2 or more: set that, or set 0")
        return dropout

    def changed(self) -> dict[str, Any]:
        """Return ``hidden_size`` and the settings that are not their defaults, as JSON."""
        names = set(Architecture.model_fields)
        return self.model_dump(include=names, exclude_defaults=True)

    @property
    def is_stack(self) -> bool:
        """Whether a setting other than ``hidden_size`` differs from its default."""
        return len(self.changed()) > 1

    def require_layer(self, variant: str) -> None:
        """Raise UserError if a stack is set and ``variant`` has no layer to stack."""
        if not self.is_stack or (MODELS / variant / "recurrent.py").is_file():
            return
        key, value = list(self.changed().items())[1]
        while isinstance(value, dict):
            name, value = next(iter(value.items()))
            key = f"{key}.{name}"
        raise UserError(
            f"model.{key} = {value}: {variant} has no layer to build it of (models/{variant}/"
            f"recurrent.py is missing): set the default or take {variant} out of variants"
        )


def architecture_of(tree: Mapping[str, Any]) -> Architecture:
    """Return ``tree``, such as a model's config.json has it, as an ``Architecture``.

    Raises ValueError, with one line, if a setting is unknown, missing or out of range.
    """
    try:
        return Architecture.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where} = {first['input']!r:.40}: {first['msg']}") from None


class Model(Architecture):
    """The settings of all variants, and the options of each variant under its name."""

    def options(self, variant: Variant) -> dict[str, Any]:
        """Return the keyword arguments of ``build_model``, without shared defaults."""
        return {**self.changed(), **getattr(self, variant).model_dump()}


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
