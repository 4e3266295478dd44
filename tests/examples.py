"""Small results of every kind as the stages write them, and a project that contains them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from conftest import PROJECT

from gru_lm.core.files import write_bytes, write_json
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.gate_study.trainings import paired
from gru_lm.results.card import Card
from gru_lm.results.coverage import Coverage
from gru_lm.results.export import Differences, ExportCheck
from gru_lm.results.gates import GateArrays, GateStudy, Reading, write_no_arrays
from gru_lm.results.samples import write_samples
from gru_lm.results.scores import Score, Scores
from gru_lm.results.seeds import ModelSummary, Summary
from gru_lm.results.training import Best, Curve, Timing, Training, write_curve
from gru_lm.results.uncertainty import SplitUncertainty, Uncertainty

VARIANTS = ("scratch", "concise", "fused")
SPLITS = ("train", "val", "test")
RESERVED = "</script><img src=x onerror=alert(1)>"
CHARACTERS = Vocabulary(
    ("<unk>", RESERVED, *"abcdefgh", " ", "<", "&", "\n", "é", "\u0301"), "char"
)
WORDS = Vocabulary(("<unk>", "the", "time", "traveller", "<b>", "said"), "word")
L, H = 120, 6
KNOWN = {"Z": 0.25, "R": 0.9}  # the gates of unit 3 at position 5
CURVE: Curve = [(1, 20.0), (2, 9.8), (3, 1.07)]
CARDS = {
    "scratch": Card(
        variant="scratch",
        label="scratch (the equations)",
        description="the textbook's equations, written out",
        textbook_perplexity=1.1,
        has_gates=True,
    ),
    "concise": Card(
        variant="concise",
        label="concise (nn.GRU)",
        description="PyTorch's nn.GRU, which applies the reset gate after the recurrent product",
        textbook_perplexity=1.0,
        has_gates=True,
    ),
    "fused": Card(
        variant="fused",
        label="fused (derived by hand)",
        description="derived by hand",
        textbook_perplexity=None,
        has_gates=True,
    ),
    "lstm": Card(
        variant="lstm",
        label="lstm (nn.LSTM)",
        description="PyTorch's nn.LSTM",
        textbook_perplexity=None,
        has_gates=False,
    ),
}
TIMING = Timing(
    tokens_per_second=33449.9, seconds=140.6, epochs_timed=3, device="CPU, 1 thread", torch="2"
)
EXPORT = ExportCheck(
    max_logit_difference=5.9e-5,
    max_relative_logit_difference=6.0e-6,
    max_state_difference=0.0,
    max_logit=30.0,
    initial=Differences(
        max_logit_difference=1.9e-9,
        max_relative_logit_difference=1.1e-6,
        max_state_difference=0.0,
        max_logit=0.004,
    ),
    tokens_compared=9,
)


def png(width: int = 4, height: int = 3, value: int = 0x80) -> bytes:
    """Return a grey PNG. ``value`` is 0 (black) to 255 (white)."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + bytes([value]) * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# ------------------------------------------------------------------------------------- training


def training(best_val: Best | None = None) -> Training:
    return Training(
        perplexity=1.0661,
        val_perplexity=100.0,
        best_val=best_val,
        epochs=3,
        seed=0,
        selected_epoch=3,
        parameters=226076,
        steps=27,
        selected_step=27,
        tokens=30_240,
        axis="epoch",
    )


def scores(bits: dict[str, float]) -> Scores:
    """Return the scores of a model with ``bits`` by split."""
    measured = {
        split: Score(perplexity=2.0**value, bits_per_token=value, tokens=9)
        for split, value in bits.items()
    }
    return Scores(**measured)


# ------------------------------------------------------------------------------------- held out


def spread(mean: int | float, sd: float | None) -> dict:
    return {"mean": mean, "sd": sd, "min": mean, "max": mean, "median": mean}


def model_summary(bits: dict[str, float], sd=0.25, best_bits=None) -> ModelSummary:
    """Return the summary of a model with ``bits`` by split and ``best_bits`` at its best epoch."""
    splits = {
        split: {
            "perplexity": spread(2.0 ** min(value, 1000), sd),
            "bits_per_token": spread(value, sd),
            "tokens": 9,
        }
        for split, value in bits.items()
    }
    best = best_bits and {
        "epoch": spread(5, sd),
        "step": spread(45, sd),
        "perplexity": spread(2.0**best_bits, sd),
        "bits_per_token": spread(best_bits, sd),
    }
    return ModelSummary.model_validate(
        {**splits, "training_perplexity": spread(1.07, sd), "best_val": best}
    )


def baseline(bits: float) -> dict:
    score = {"perplexity": 2.0**bits, "bits_per_token": bits, "tokens": 9}
    return dict.fromkeys(SPLITS, score)


def summary(models: dict[str, ModelSummary], baselines: dict[str, float], seeds=(0, 1, 2)):
    trees = {name: model.model_dump() for name, model in models.items()}
    floors = {name: baseline(bits) for name, bits in baselines.items()}
    return Summary.model_validate({"seeds": list(seeds), "models": trees, "baselines": floors})


# ------------------------------------------------------------------------------------- coverage

TARGETS = {"never": 235, "<25%": 445, "25-50%": 355, "50-75%": 363, "75-100%": 8601}
NATS = {"never": 3.78, "<25%": 2.58, "25-50%": 0.95, "50-75%": 0.23, "75-100%": 0.016}


def coverage(targets=TARGETS, nats=NATS, epochs=500) -> Coverage:
    """Return the coverage for ``targets`` by group with ``nats`` per target."""
    total = sum(targets.values())
    loss = sum(nats[name] * count for name, count in targets.items())

    def group(*names: str) -> dict | None:
        count = sum(targets.get(name, 0) for name in names)
        if count == 0:
            return None
        mine = sum(nats[name] * targets[name] for name in names if name in targets)
        mean = mine / count
        return {
            "tokens": count,
            "share": count / total,
            "loss_share": mine / loss if loss else 0.0,
            "perplexity": float(np.exp(mean)) if mean < 700 else None,
            "bits_per_token": mean / float(np.log(2)),
        }

    every, seen, *often = (list(TARGETS)[start:] for start in range(3))
    return Coverage.model_validate(
        {
            "epochs": epochs,
            "overall": group(*every),
            "trained": group(*seen),
            "often_trained": group(*often[0]),
            "by_times_trained": {name: group(name) for name in targets},
        }
    )


# ---------------------------------------------------------------------------------- uncertainty


def group(perplexity: float, expected: float = 2.0) -> dict:
    known = perplexity < 1e300
    return {
        "tokens": 10,
        "share": 0.5,
        "perplexity": perplexity if known else None,
        "bits_per_token": float(np.log2(perplexity)) if known else 1e5,
        "entropy_bits": float(np.log2(expected)),
    }


def split_uncertainty(confidence=0.78, accuracy=0.33, ece=0.45, overall=118.0, groups=None):
    empty = {"count": 0, "confidence": None, "accuracy": None}
    bins = [{"low": i / 15, "high": (i + 1) / 15, **empty} for i in range(15)]
    bins[11] |= {"count": 10, "confidence": confidence, "accuracy": accuracy}
    return SplitUncertainty.model_validate(
        {
            "calibration": {
                "ece": ece,
                "accuracy": accuracy,
                "confidence": confidence,
                "bins": bins,
            },
            "overall": group(overall),
            "position_in_word": groups,
            "character_class": groups and {"vowel": group(20.0)},
        }
    )


def uncertainty(**values) -> Uncertainty:
    measured = split_uncertainty(**values)
    return Uncertainty(train=measured, val=measured, test=measured)


# ---------------------------------------------------------------------------------------- gates

PLACES = {
    "first letter": {"Z": 0.2, "R": 0.5, "tokens": 10},
    "inside words": {"Z": 0.3, "R": 0.6, "tokens": 10},
    "space": {"Z": 0.4, "R": 0.7, "tokens": 10},
}
MEASURES = ("calibrated_bits", "bits", "accuracy")
TRAIN_BITS = (4.0, 3.0, 2.0, 1.0, 1.0)  # with 0, 1, 2 and 4 tokens of context, and with all
VAL_BITS = (4.0, 3.5, 3.25, 3.3, 3.5)
BEST_BITS = (4.0, 3.5, 3.1, 3.0, 3.0)
HOLDS = (0.1, 0.2, 0.15)  # differences over three trainings that support a claim


def by_measure(values) -> dict:
    return dict.fromkeys(MEASURES, values)


def halves(near, far=None) -> dict:
    return {"near": paired(near), "far": paired(near if far is None else far)}


def context_curves(bits, trainings, reach) -> dict:
    *limited, _ = bits
    scores = {"calibrated_bits": list(bits), "bits": list(bits), "accuracy": [0.25] * len(bits)}
    return {
        "targets": 9,
        "lengths": [0, 1, 2, 4][: len(limited)],
        "reach": reach,
        "trainings": [{"seed": seed, "scores": scores} for seed in range(trainings)],
    }


def interventions(near, gain=(2.0, 1.5), long=(-0.1, -0.2, -0.15), trainings=3) -> dict:
    """Return interventions with the differences ``near`` of the gates and ``long`` of the units."""
    rises = {gate: by_measure([0.0, 0.0, 0.1, 0.2, 0.3, 0.6, 1.0]) for gate in ("reset", "update")}
    equal = {"dose": {"reset": 0.7, "update": 0.4}, "fresh": rises, "passage": rises}
    losses = {"long": [0.5, 0.9], "short": [1.5, 1.5], "random": [[0.7, 1.1]] * 20}
    cost = {"reset": halves([0.4, 0.4, 0.5]), "update": halves([0.5, 0.5, 0.6])}
    more = {"long": halves(long), "short": halves(HOLDS)}
    return {
        "near": 8,
        "far": 32,
        "lengths": [0, 1, 2, 4, 8, 16, 32],
        "gates": [
            {
                "seed": seed,
                "targets": 9,
                "plain": by_measure([4.0, 3.0, 2.0, 1.0, 1.0, 0.5, 0.5]),
                "full": rises,
                "equal": equal if near else None,
            }
            for seed in range(len(near) or trainings)
        ],
        "units": [{"seed": 0, "targets": 9, **by_measure(losses)}] if near else [],
        "gain": by_measure(halves([gain[0]] * trainings, [gain[1]] * trainings)),
        "held_in_full": by_measure(cost),
        "reset_against_update": dict.fromkeys(("fresh", "passage"), by_measure(halves(near))),
        "more_than_random": by_measure(more),
    }


def gate_study(
    train=TRAIN_BITS,
    val=VAL_BITS,
    best=BEST_BITS,
    reach=(28, 3, 4),
    places=PLACES,
    near=HOLDS,
    near_on_val=(),
    far_gain_on_val=0.001,
    long=(-0.1, -0.2, -0.15),
    selected="last",
) -> GateStudy:
    """Return a study with the mean curves ``train``, ``val`` and ``best`` (on val) and reaches.

    ``near`` are the differences between the gates on the training text.
    """
    n = max(1, len(near))
    return GateStudy.model_validate(
        {
            "seeds": list(range(n)),
            "selected": selected,
            "time_constant": {"min": 0.1, "p10": 0.2, "median": 0.7, "p90": 1.0, "max": None},
            "activity": {"train": places, "val": places},
            "context": {
                "tolerance": 0.05,
                "train": {
                    "selected": context_curves(train, n, reach[0]),
                    "best": context_curves(train, n, reach[0]),
                },
                "val": {
                    "selected": context_curves(val, n, reach[1]),
                    "best": context_curves(best, n, reach[2]),
                },
            },
            "interventions": {
                "train": interventions(near, long=long),
                "val": interventions(near_on_val, (1.0, far_gain_on_val)),
            },
        }
    )


def gate_arrays(vocabulary=CHARACTERS, length=L, columns=5, seed=0) -> GateArrays:
    rng = np.random.default_rng(seed)
    readings = {}
    for split in ("train", "val"):
        probabilities = np.sort(rng.dirichlet(np.ones(len(vocabulary)), length))[:, ::-1]
        probabilities[0] = np.nan  # the first token is not predicted
        surprise = rng.uniform(0, 12, length)
        surprise[0] = np.nan
        gates = {gate: rng.uniform(0, 1, (length, H)) for gate in ("Z", "R")}
        for gate, value in KNOWN.items():
            gates[gate][5 % length, 3] = value
        alternatives = np.array([rng.permutation(len(vocabulary)) for _ in range(length)])
        readings[split] = Reading(
            tokens=np.arange(length) % len(vocabulary),  # the same for every variant
            Z=gates["Z"].astype("float32"),
            R=gates["R"].astype("float32"),
            surprise=surprise.astype("float32"),
            top_tokens=alternatives[:, :columns],
            top_probabilities=probabilities[:, :columns].astype("float32"),
        )
    return GateArrays(
        readings=readings,
        mean_Z=np.linspace(0.1, 1, H).astype("float32"),
        mean_R=np.linspace(0.9, 0, H).astype("float32"),
        time_constant=np.array([3, 1, 2, 5, 4, np.inf], "float32"),
    )


# -------------------------------------------------------------------------------------- project


def write_project(
    root: Path,
    variants=VARIANTS,
    vocabulary=CHARACTERS,
    length=L,
    columns=5,
    seeds=(0, 1, 2),
    best_val: Best | None = None,
    best_bits: float | None = None,
) -> Path:
    """Write all results that the pictures and the page need to the new folder ``root``."""
    root.mkdir(parents=True)
    params = (PROJECT / "params.yaml").read_text(encoding="utf-8").splitlines()
    listed = f"variants: [{', '.join(v for v in variants if v != 'lstm')}]"
    params = [listed if line.startswith("variants:") else line for line in params]
    (root / "params.yaml").write_text("\n".join(params), encoding="utf-8")
    vocabulary.save(root / "data/prepared/vocab.json")
    sd = 0.25 if len(seeds) > 1 else None
    models = {}
    for number, name in enumerate(variants):
        bits = {"train": 0.5 + number, "val": 6.0 + number, "test": 7.0 + number}
        models[name] = model_summary(bits, sd, best_bits)
        CARDS[name].write(root / f"models/{name}/card.json")
        for split in ("train", "val"):
            write_curve(root / f"plots/{split}/{name}.tsv", CURVE)
        training(best_val).write(root / f"metrics/train/{name}.json")
        scores(bits).write(root / f"metrics/evaluate/{name}.json")
        TIMING.write(root / f"metrics/timing/{name}.json")
        EXPORT.write(root / f"metrics/export/{name}.json")
        uncertainty(groups={"1": group(640.0), "end": group(11.5)}).write(
            root / f"analysis/uncertainty/{name}.json"
        )
        coverage().write(root / f"analysis/coverage/{name}.json")
        samples = {"greedy": [f"<i>{name}</i> & co", "b"], "temperature 0.5": ["c\nd"]}
        write_samples(root / f"samples/{name}.txt", samples)
        gates = root / f"analysis/gates/{name}.json"
        if CARDS[name].has_gates:
            gate_study().write(gates)
            arrays = gate_arrays(vocabulary, length, columns, seed=number)
            arrays.write(gates.with_suffix(".npz"), vocabulary.fingerprint)
        else:
            write_json(gates, {"left_out": f"{name} has no gates to read"})
            write_no_arrays(gates.with_suffix(".npz"), vocabulary.fingerprint)
    summary(models, {"unigram": 4.0}, seeds).write(root / "analysis/summary.json")
    return root


def write_pictures(paths: list[Path]) -> None:
    """Write a grey picture to each of ``paths``."""
    for path in paths:
        write_bytes(path, png())
