"""Test the Triton kernels without a GPU, in Triton's interpreter and by compiling them.

The kernels are those of gru_lm.models.fused.gpu, and those of benchmarks.kernels.persistent, which
may replace them. The tests marked gpu in test_fused.py run the former on a GPU.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from gru_lm.models.fused import gpu as fused_gpu
from gru_lm.models.fused import layer
from gru_lm.models.fused import steps as fused_steps

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

KERNELS = {  # the number of tensors of each kernel
    "_forward_gates": 3,
    "_forward_state": 4,
    "_forward_step": 4,
    "_backward_state": 5,
    "_backward_gates": 7,
    "_backward_step": 6,
}
RESETS = ["before", "after"]


def load(name: str) -> ModuleType:
    """Import a module again, because a kernel is interpreted or not from its definition on."""
    origin = importlib.util.find_spec(name)
    assert origin is not None
    assert origin.origin is not None
    spec = importlib.util.spec_from_file_location(f"{name}_copy", origin.origin)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def interpreted() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        return load("gru_lm.models.fused.gpu")


@pytest.fixture(scope="module")
def persistent(interpreted: ModuleType) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setitem(sys.modules, "gru_lm.models.fused.gpu", interpreted)
        return load("benchmarks.kernels.persistent")


def results(H: int, B: int, T: int, reset: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return states, last state and all gradients of one pass with fixed random weights."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    V = 5
    tokens = torch.randint(V, (T, B), generator=generator)
    inputs = {"state": draw(H, B), "W_x": draw(3 * H, V), "W_h": draw(3 * H, H) / H**0.5}
    if reset == "after":
        inputs["b_hh"] = draw(H)
    for tensor in inputs.values():
        tensor.requires_grad_()
    states, last = layer.Recurrence.apply(
        tokens, *(inputs.get(name) for name in ("state", "W_x", "W_h", "b_hh")), {}
    )
    ((states * draw(*states.shape)).sum() + (last * draw(*last.shape)).sum()).backward()
    gradients = {f"d {name}": tensor.grad for name, tensor in inputs.items()}
    return {"states": states.detach(), "last": last.detach(), **gradients}


def assert_same(reached: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    assert wanted.keys() == reached.keys()
    for name, value in wanted.items():
        error = (reached[name] - value).abs().max()
        assert error <= tolerance * value.abs().max(), f"{name}: {error:.2g}"


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("H, B, T", [(1, 1, 1), (5, 3, 4), (64, 4, 3), (40, 13, 2)])
def test_interpreted_kernels_match_torch_loops(
    H, B, T, dtype, tolerance, reset, interpreted, monkeypatch
):
    calls: list[str] = []
    launch = interpreted.launch

    def counted(kernel, n, *tensors):
        calls.append(kernel.fn.__name__)
        launch(kernel, n, *tensors)

    wanted = results(H, B, T, reset, dtype)
    monkeypatch.setattr(layer, "memory_for", lambda *_: fused_steps.Steps)
    monkeypatch.setattr(fused_steps, "loops_for", lambda _: interpreted.KernelLoops)
    monkeypatch.setattr(interpreted, "launch", counted)
    reached = results(H, B, T, reset, dtype)

    mine = [name for name in KERNELS if name.endswith("_step") == (reset == "after")]
    assert {name: calls.count(name) for name in calls} == dict.fromkeys(mine, T)
    assert_same(reached, wanted, tolerance)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("H, B, T", [(1, 1, 1), (5, 3, 4), (20, 7, 3)])
@pytest.mark.parametrize(
    "together, units, sequences",
    [(True, 32, 8), (False, 16, 8), (False, 4, 2)],
    ids=["one launch, one program", "launches, two programs", "launches, many programs"],
)
def test_interpreted_persistent_kernels_match_torch_loops(
    H, B, T, together, units, sequences, reset, persistent, monkeypatch
):
    loops = persistent.PersistentLoops
    monkeypatch.setattr(loops, "together", together)
    monkeypatch.setattr(loops, "UNITS", units)
    monkeypatch.setattr(loops, "SEQUENCES", sequences)
    monkeypatch.setattr(loops, "TERMS", 8)
    wanted = results(H, B, T, reset, torch.float32)
    monkeypatch.setattr(layer, "memory_for", lambda *_: fused_steps.Steps)
    monkeypatch.setattr(fused_steps, "loops_for", lambda _: loops)
    assert_same(results(H, B, T, reset, torch.float32), wanted, 1e-5)


def test_tanh_is_accurate_near_zero(interpreted):
    # The candidate's kernel with Z = 0 and H = 0 gives the new state tanh(C).
    x = torch.cat([torch.logspace(-30, 1.5, 3000), torch.linspace(0.1, 0.2, 1000)])
    x = torch.cat([x, -x])
    C, zero, state = x.clone(), torch.zeros_like(x), torch.empty_like(x)
    interpreted.launch(interpreted._forward_state, len(x), zero, C, zero, state)
    exact = torch.tanh(x.double())
    assert ((state - exact) / exact).abs().max() < 1e-6
    assert torch.equal(C, state)


def assert_compiles(kernel: Any, types: dict[str, str], sizes: dict[str, int]) -> None:
    """Compile ``kernel`` for three generations of GPUs, with argument ``types`` and ``sizes``."""
    assert kernel.arg_names == [*types, *sizes]
    signature = types | dict.fromkeys(sizes, "constexpr")
    for capability in (80, 90, 100):
        target = GPUTarget("cuda", capability, 32)
        compiled = triton.compile(ASTSource(kernel, signature, sizes), target=target)
        assert f".target sm_{capability}" in compiled.asm["ptx"]
        assert compiled.asm["cubin"]


@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
@pytest.mark.parametrize("kernel, tensors", KERNELS.items())
def test_kernels_compile_for_gpus(kernel, tensors, dtype):
    function = getattr(load("gru_lm.models.fused.gpu"), kernel)
    types = dict.fromkeys(function.arg_names[:tensors], f"*{dtype}") | {"n": "i32"}
    assert_compiles(function, types, {"BLOCK": fused_gpu.BLOCK})


@pytest.mark.parametrize("loop", ["forward", "backward"])
@pytest.mark.parametrize("reset", RESETS)
def test_persistent_kernels_compile_for_gpus(loop, reset):
    kernel = getattr(load("benchmarks.kernels.persistent"), f"_{loop}_{reset}")
    tensors = kernel.arg_names[: kernel.arg_names.index("arrived")]
    types = dict.fromkeys(tensors, "*fp32") | {"arrived": "*i32"}
    types |= dict.fromkeys(["first", "last", "T", "H", "B"], "i32")
    assert_compiles(kernel, types, {"UNITS": 16, "SEQUENCES": 16, "K": 64})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_kernels_are_used_on_gpu():
    assert fused_steps.loops_for(torch.zeros(1, device="cuda")) is fused_gpu.KernelLoops


def test_working_triton_is_detected(interpreted, recwarn):
    assert interpreted.triton_works(torch.device("cpu"))
    assert not recwarn


def test_broken_triton_gives_one_warning():
    # Compiled kernels do not run on a CPU, as on a machine without a driver or a C compiler.
    module = load("gru_lm.models.fused.gpu")
    with pytest.warns(UserWarning, match="runs without Triton, which fails: .+") as said:
        assert not module.triton_works(torch.device("cpu"))
        assert not module.triton_works(torch.device("cpu"))
    assert len(said) == 1
    module.triton = None
    module.triton_works.cache_clear()
    assert not module.triton_works(torch.device("cpu"))
