"""The results from which the pictures and the page are made, read at first use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from gru_lm.core.errors import DamagedFile
from gru_lm.data.prepared import PREPARED
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.report.style import Look, looks
from gru_lm.results.card import Card
from gru_lm.results.coverage import Coverage
from gru_lm.results.export import ExportCheck
from gru_lm.results.gates import PASSAGES, GateArrays, GateStudy, LeftOut, read_gate_study
from gru_lm.results.samples import read_samples
from gru_lm.results.scores import Scores
from gru_lm.results.seeds import Summary
from gru_lm.results.training import Axis, Curve, Timing, Training, read_curve
from gru_lm.results.uncertainty import Uncertainty

Content = TypeVar("Content")


class Inputs:
    """Results of ``variants``, in their order, in the project's folder.

    Results of other variants are not read. Each property raises UnusableFile if a file that it
    needs is missing or damaged.
    """

    def __init__(self, variants: Sequence[str]) -> None:
        self.variants = variants

    def read_all(self) -> None:
        """Read every result now, so that an unusable one raises before a picture is drawn."""
        for name, member in vars(type(self)).items():
            if isinstance(member, cached_property):
                getattr(self, name)

    def _by_variant(self, read: Callable[[Path], Content], pattern: str) -> dict[str, Content]:
        return {name: read(Path(pattern.format(name))) for name in self.variants}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the prepared data."""
        return Vocabulary.load(PREPARED / "vocab.json")

    @property
    def unit(self) -> str:
        """The name of a token: "character", "word" or "token"."""
        return self.vocabulary.unit

    @cached_property
    def cards(self) -> dict[str, Card]:
        """The name and the abilities of each variant."""
        return self._by_variant(Card.read, "models/{}/card.json")

    @cached_property
    def looks(self) -> dict[str, Look]:
        """The colour, dash and marker of each variant."""
        return looks(self.cards)

    @cached_property
    def textbook(self) -> dict[str, float | None]:
        """The textbook's training perplexity for each variant, None if it has none."""
        return {name: card.textbook_perplexity for name, card in self.cards.items()}

    @cached_property
    def train_curves(self) -> dict[str, Curve]:
        """Training perplexity by epoch or step."""
        return self._by_variant(read_curve, "plots/train/{}.tsv")

    @cached_property
    def val_curves(self) -> dict[str, Curve]:
        """Validation perplexity by epoch or step."""
        return self._by_variant(read_curve, "plots/val/{}.tsv")

    @cached_property
    def training(self) -> dict[str, Training]:
        """The results of each training."""
        return self._by_variant(Training.read, "metrics/train/{}.json")

    @property
    def axis(self) -> Axis:
        """What the curves count, "epoch" or "step"."""
        found: set[Axis] = {one.axis for one in self.training.values()}
        return "step" if "step" in found else "epoch"

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """The scores of each model on each split, read in one piece."""
        return self._by_variant(Scores.read, "metrics/evaluate/{}.json")

    @cached_property
    def timings(self) -> dict[str, Timing]:
        """The speed of each training."""
        return self._by_variant(Timing.read, "metrics/timing/{}.json")

    @cached_property
    def exports(self) -> dict[str, ExportCheck]:
        """The differences between the ONNX files and the models."""
        return self._by_variant(ExportCheck.read, "metrics/export/{}.json")

    @cached_property
    def uncertainty(self) -> dict[str, Uncertainty]:
        """Calibration and surprise by group."""
        return self._by_variant(Uncertainty.read, "analysis/uncertainty/{}.json")

    @cached_property
    def coverage(self) -> dict[str, Coverage]:
        """The loss on the training split by how often its targets were trained."""
        return self._by_variant(Coverage.read, "analysis/coverage/{}.json")

    @cached_property
    def samples(self) -> dict[str, dict[str, list[str]]]:
        """The texts that each variant generated, by heading."""
        return self._by_variant(read_samples, "samples/{}.txt")

    @cached_property
    def summary(self) -> Summary:
        """The mean and spread over seeds of ``variants``, and the baselines."""
        path = Path("analysis/summary.json")
        summary = Summary.read(path)
        for name in self.variants:
            if name not in summary.models:
                raise DamagedFile(path, f"models: it has no {name}")
        return summary.model_copy(
            update={"models": {name: summary.models[name] for name in self.variants}}
        )

    @cached_property
    def _gate_studies(self) -> dict[str, GateStudy | LeftOut]:
        return self._by_variant(read_gate_study, "analysis/gates/{}.json")

    @cached_property
    def gates(self) -> dict[str, GateStudy]:
        """The gate study of each variant that has gates."""
        studies = self._gate_studies.items()
        return {name: study for name, study in studies if isinstance(study, GateStudy)}

    @property
    def left_out(self) -> list[str]:
        """For each variant without gates, the reason why it is left out."""
        studies = self._gate_studies.values()
        return [study.left_out for study in studies if isinstance(study, LeftOut)]

    @property
    def gated_looks(self) -> dict[str, Look]:
        """The colour, dash and marker of each variant with gates."""
        return {name: self.looks[name] for name in self.gates}

    @cached_property
    def gate_arrays(self) -> dict[str, GateArrays]:
        """The gates of each variant that has gates, read on the same passages."""
        vocabulary = self.vocabulary
        found: dict[str, GateArrays] = {}
        for name in self.gates:
            path = Path(f"analysis/gates/{name}.npz")
            arrays = GateArrays.read(path, vocabulary.fingerprint, len(vocabulary))
            first, of_first = next(iter(found.items()), (name, arrays))
            for split in PASSAGES:
                one, other = (a.readings[split].tokens for a in (of_first, arrays))
                if not np.array_equal(one, other):
                    raise DamagedFile(path, f"its {split} passage is not that of {first}")
            found[name] = arrays
        return found
