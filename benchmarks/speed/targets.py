"""Target speeds of this project relative to other implementations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True)
class Target:
    """The fastest of ``candidates`` should be ``wanted`` times as fast as ``reference``."""

    text: str
    candidates: tuple[str, ...]
    reference: str
    wanted: float
    device: Literal["cpu", "cuda"] = "cpu"
    work: Literal["training", "sampling"] = "training"


FUSED, CONCISE = ("fused-fp32", "fused-bf16"), ("concise-fp32", "concise-bf16")

TARGETS: Final = (
    Target("CPU, fused in fp32, textbook scratch", ("fused-fp32",), "textbook-scratch", 2.0),
    Target("CPU, fused in fp32, textbook concise", ("fused-fp32",), "textbook-concise", 1.5),
    Target("CPU, fused in its best precision, JAX", FUSED, "jax", 1.3),
    Target("CPU, concise in fp32, textbook concise", ("concise-fp32",), "textbook-concise", 1.0),
    Target(
        "CPU, concise in its best precision, textbook concise", CONCISE, "textbook-concise", 1.6
    ),
    Target(
        "GPU, scratch in fp32, textbook scratch",
        ("scratch-fp32",),
        "textbook-scratch",
        10.0,
        "cuda",
    ),
    Target("GPU, fused in fp32, concise in fp32", ("fused-fp32",), "concise-fp32", 1.0, "cuda"),
    Target(
        "GPU, concise in fp32, textbook concise", ("concise-fp32",), "textbook-concise", 3.0, "cuda"
    ),
    Target(
        "CPU, sampling with the fastest variant, predict_ch8 with textbook scratch",
        ("scratch", "concise", "fused"),
        "textbook-scratch",
        3.0,
        work="sampling",
    ),
)
