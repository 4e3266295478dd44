"""Result files: for each a schema, used by the code that writes it and the code that reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gru_lm.core.errors import DamagedFile
from gru_lm.core.files import read_json, write_json

Perplexity = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Result(BaseModel):
    """One file's content; the fields are its keys, in their order."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def write(self, path: Path) -> None:
        """Write it to ``path``, whole or not at all."""
        write_json(path, self.model_dump(by_alias=True))

    @classmethod
    def read(cls, path: Path) -> Self:
        """What ``write`` wrote to ``path``.

        Raises UnusableFile if the file is missing, or holds anything but such a result.
        """
        return cls.of(read_json(path), path)

    @classmethod
    def of(cls, tree: dict[str, Any], path: Path) -> Self:
        """The JSON object ``tree`` that ``path`` holds. Raises DamagedFile as ``read`` does."""
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(key) for key in problem["loc"])
            raise DamagedFile(path, f"{where}: {problem['msg']}"[:200]) from None
