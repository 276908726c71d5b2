"""The default device, and that nothing asks an Apple GPU for float64."""

import pytest
import torch

from simulated_mps import MPS, SimulatedMPS
from titok_hf.devices import default_device, float64_device


@pytest.mark.parametrize(
    "kind, rank, expected",
    [(None, None, "cpu"), (None, 1, "cpu"), ("cuda", None, "cuda"), ("cuda", 1, "cuda:1"), ("mps", None, "mps")]
    + [("mps", 0, "mps"), ("xpu", 0, "xpu:0")],
)
def test_the_default_is_the_accelerator_of_the_machine(monkeypatch, kind, rank, expected):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: kind is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    assert default_device(rank) == expected


def test_sums_beside_an_apple_gpu_are_on_the_cpu():
    assert float64_device("mps") == torch.device("cpu")
    assert float64_device("cuda:1") == torch.device("cuda:1") and float64_device(torch.device("cpu")).type == "cpu"


def test_the_simulation_refuses_what_an_apple_gpu_refuses():
    with SimulatedMPS():
        assert torch.device("mps") == MPS
        images = torch.ones(2, 3).to("mps")
        assert images.device == MPS and (images + 1).mean(dim=0).device == MPS
        assert images.cpu().double().sum() == 6 and images.cpu().device.type == "cpu"
        assert torch.nn.Linear(3, 2).to("mps")(images).device == MPS
        assert torch.zeros(2, device=MPS).device == MPS and torch.zeros(2).to(images.device).device == MPS
        for refused in (
            lambda: images.double(),
            lambda: images.to(torch.float64),
            lambda: torch.zeros(2, dtype=torch.float64, device="mps"),
            lambda: torch.zeros(2, dtype=torch.float64).to("mps"),
            lambda: torch.nn.Linear(3, 2).double().to("mps"),
        ):
            with pytest.raises(TypeError, match="doesn't support float64"):
                refused()
    assert torch.ones(2).double().dtype == torch.float64
