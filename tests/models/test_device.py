"""The choice of the device with a GPU, without one and with an unusable one."""

from __future__ import annotations

import pytest
import torch

from gru_lm.core.errors import UserError
from gru_lm.models import device
from gru_lm.models.device import choose_device, gpu_fault

TOO_OLD = "CUDA error: no kernel image is available for execution on the device\nmore"


@pytest.fixture(autouse=True)
def restore_settings():
    """Restore the settings of TF32, which apply to the whole process."""
    matmul, rnn = torch.backends.cuda.matmul, torch.backends.cudnn.rnn
    before = matmul.fp32_precision, rnn.fp32_precision
    yield
    matmul.fp32_precision, rnn.fp32_precision = before


def simulate_gpu(monkeypatch: pytest.MonkeyPatch, fault: str = "") -> None:
    """Simulate a GPU, whose first use raises ``fault``."""

    class Number:
        def add(self, _: int) -> Number:
            return self

        def item(self) -> float:
            if fault:
                raise RuntimeError(fault)
            return 2.0

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device.torch, "ones", lambda *_, **options: Number())


def test_cpu_is_used_without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(
        UserError, match=r"^device is cuda, but torch finds no CUDA GPU: set device"
    ):
        choose_device("cuda")


def test_gpu_is_used_with_full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.backends.cudnn.rnn.fp32_precision = "tf32"  # torch's default
    simulate_gpu(monkeypatch)
    assert choose_device("cpu") == torch.device("cpu")
    assert torch.backends.cudnn.rnn.fp32_precision == "tf32"
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert torch.backends.cudnn.rnn.fp32_precision == "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"


def test_unusable_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    simulate_gpu(monkeypatch, TOO_OLD)
    why = f"the GPU cannot be used ({TOO_OLD.removesuffix(chr(10) + 'more')})"
    assert gpu_fault() == why
    with pytest.warns(UserWarning, match="using the CPU: the GPU cannot be used"):
        assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(UserError) as refused:
        choose_device("cuda")
    assert str(refused.value).startswith(f"device is cuda, but {why}: set device to auto or cpu")
