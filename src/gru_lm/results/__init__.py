"""Result files. Each has a schema, which is used to write the file and to read it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gru_lm.core.errors import DamagedFile
from gru_lm.core.files import read_json, write_json
from gru_lm.core.reading import DOCUMENT, read_bytes

Finite = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1, lt=2**63)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[Finite, Field(ge=0, le=1)]
Perplexity = Annotated[Finite, Field(ge=1)]
NotNegative = Annotated[Finite, Field(ge=0)]

ROUNDING = 1e-6  # by how much a mean or a sum of probabilities may leave its range
Mean = Annotated[Finite, Field(ge=0, le=1 + ROUNDING)]  # or a share, after rounding


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it contains characters that are not printable")
    return text


Words = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_printable)]

Content = TypeVar("Content")


class Result(BaseModel):
    """The content of one file. The fields are its keys, in the same order."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def write(self, path: Path) -> None:
        """Write the result to ``path`` as JSON, atomically."""
        write_json(path, self.model_dump(by_alias=True))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file that ``write`` wrote to ``path``.

        Raises UnusableFile if the file is missing or does not match the schema.
        """
        return cls.of(read_json(path), path)

    @classmethod
    def of(cls, tree: dict[str, Any], path: Path) -> Self:
        """Validate ``tree``, the JSON object in ``path``. Raises DamagedFile if it is invalid."""
        return checked(TypeAdapter(cls), tree, path)


def checked(schema: TypeAdapter[Content], tree: dict[str, Any], path: Path) -> Content:
    """Validate ``tree``, the JSON object in ``path``, and return it as ``schema`` defines it.

    Raises DamagedFile with the first invalid key and the reason.
    """
    try:
        return schema.validate_python(tree)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(key) for key in problem["loc"])
        why = problem["msg"].removeprefix("Value error, ")
        raise DamagedFile(path, (f"{where}: {why}" if where else why)[:200]) from None


def read_text(path: Path, limit: int = DOCUMENT) -> str:
    """Read the UTF-8 text in ``path``, at most ``limit`` bytes.

    Raises UnusableFile if it is missing, too large or not UTF-8.
    """
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFile(path, str(error)) from None
