"""Starting from the weights of a trained model."""

from __future__ import annotations

from pathlib import Path

from gru_lm.core.errors import UserError
from gru_lm.core.files import read_json
from gru_lm.models.base import CONFIG, WEIGHTS, LanguageModel, load_model


def initial_folder(init_from: str, variant: str) -> Path:
    """Return the folder that ``train.init_from`` names for ``variant``."""
    return Path(init_from.replace("{variant}", variant))


def load_initial(model: LanguageModel, folder: Path, vocabulary_fingerprint: str) -> None:
    """Give ``model`` the weights of the model in ``folder``.

    Raises UserError if the folder has no model, or one of another kind, other options or another
    vocabulary.
    """
    key = f"train.init_from = {folder}"
    if not all((folder / name).is_file() for name in (CONFIG, WEIGHTS)):
        raise UserError(
            f"{key}: there is no trained model (a folder with {CONFIG} and {WEIGHTS}); name one, "
            "or set it to null"
        )
    config = read_json(folder / CONFIG)
    if config.get("vocabulary") != vocabulary_fingerprint:
        raise UserError(
            f"{key}: this model has another vocabulary than data/prepared/vocab.json; prepare the "
            "text with the vocabulary that it was trained with, or set it to null"
        )
    if config.get("variant") != model.variant:
        raise UserError(
            f"{key}: this model is of the variant {config.get('variant')!r:.40}, not "
            f"{model.variant!r}"
        )
    trained = load_model(folder, vocabulary_fingerprint, model.variant)
    if type(trained) is not type(model) or trained.options != model.options:
        raise UserError(
            f"{key}: this model has other options ({trained.options!r:.200}) than the section "
            f"model ({model.options!r:.200}); set them to the same values"
        )
    try:
        model.load_weights(trained.to(model.device).state_dict())
    except ValueError as error:
        raise UserError(
            f"{key}: this model has other sizes than the section model ({error})"
        ) from None
