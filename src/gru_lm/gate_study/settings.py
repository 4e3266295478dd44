"""Settings of the gate study: the section ``gate_study`` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gru_lm.core.params import Section, TopLevel


class Passage(Section):
    """The passage of each split, in tokens, for which gates and surprise are recorded."""

    start: Annotated[int, Field(ge=0, le=10**12)]
    length: Annotated[int, Field(ge=2, le=5000)]


class GateStudySettings(TopLevel):
    """The settings of the gate study."""

    gate_study: Passage
