"""
Runs the tiny pipeline on a device that is not the CPU, real or pretended.

    python tests/run_elsewhere.py

Prints a line of JSON: by way of placing the models and by method of the pipeline, what went wrong or null; then
another: by setting of the sampler, the operations in its steps for which the host waits for the device.
"""

import json
import traceback
from collections.abc import Callable
from typing import Any

import torch

import labelled_device
from tiny_pipeline import generators, tiny_pipeline
from titok_hf import TiTokPipeline
from titok_hf.samplers import REMASK_RULES

LABELS = [0, 1]
SETTINGS: dict[str, dict[str, Any]] = {
    "linear guidance": {},
    "constant guidance": {"guidance_schedule": "constant", "mask_schedule": "cosine"},
    "power-cosine guidance in an interval": {"guidance_schedule": "power-cosine", "guidance_interval": (0.2, 0.8)},
    "no guidance, no noise": {"guidance_scale": 1.0, "temperature": 0.0, "mask_schedule": "root"},
    "annealing": {"softmax_temperature_annealing": True, "mask_schedule": "linear"},
    "guidance by the step before": {"guidance": "previous-step"},
    "moment": {"sampler": "moment"},
    "ordered": {"sampler": "ordered", "token_order": list(range(8))},
    "entropy-bounded": {"sampler": "entropy-bounded"},
    **{f"remdm, {rule}": {"sampler": "remdm", "remask": rule} for rule in REMASK_RULES},
}


def images() -> list[torch.Tensor]:
    return [torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]


METHODS: dict[str, Callable[[TiTokPipeline], torch.Tensor]] = {
    "__call__": lambda pipe: pipe(LABELS, generator=generators(0, 1), output_type="pt").images,
    "encode": lambda pipe: pipe.encode(images()),
    "decode": lambda pipe: pipe.decode(torch.arange(16).reshape(2, 8), "pt"),
    "reconstruct": lambda pipe: pipe.reconstruct(images(), "pt"),
}


def ways_of(device: torch.device) -> dict[str, Callable[[TiTokPipeline], Any]]:
    """How models come to a device. The pretended one cannot take the place of a parameter's storage, as these do: the
    offload of single layers and of groups."""
    ways: dict[str, Callable[[TiTokPipeline], Any]] = {
        "to": lambda pipe: pipe.to(device),
        "model offload": lambda pipe: pipe.enable_model_cpu_offload(device=device),
    }
    if device.type != labelled_device.DEVICE_TYPE:
        blocks = {"offload_type": "block_level", "num_blocks_per_group": 1}
        ways |= {
            "sequential offload": lambda pipe: pipe.enable_sequential_cpu_offload(device=device),
            "group offload, leaves": lambda pipe: pipe.enable_group_offload(device, offload_type="leaf_level"),
            "group offload, blocks": lambda pipe: pipe.enable_group_offload(device, **blocks),
        }
    return ways


def differences(device: torch.device, expected: dict[str, torch.Tensor]) -> dict[str, str | None]:
    """By way and method, the traceback of an error or of an output that is not the CPU's; each is called twice."""
    found: dict[str, str | None] = {}
    for way, place in ways_of(device).items():
        for method, call in METHODS.items():
            found[f"{way}: {method}"] = None
            try:
                pipe = tiny_pipeline()
                place(pipe)
                for _ in range(2):
                    torch.testing.assert_close(call(pipe).cpu(), expected[method], rtol=1e-4, atol=1e-4)
            except Exception:
                found[f"{way}: {method}"] = traceback.format_exc()[-3_000:]
    return found


def waits_of_sampling(device: torch.device, **settings: Any) -> list[str]:
    """The waits from the first pass of the transformer to the end of the last step."""
    pipe = tiny_pipeline(**settings).to(device)
    between: list[str] = []
    with labelled_device.counted_waits() as waits:
        started: list[int] = []
        pipe.transformer.register_forward_pre_hook(lambda *_: started.append(len(waits)))

        def callback(
            pipe: TiTokPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, Any]
        ) -> dict[str, Any]:
            between[:] = waits[started[0] :]
            return {}

        pipe(LABELS, generator=generators(0, 1), callback_on_step_end=callback, output_type="latent")
    return between


def main() -> None:
    expected = {method: call(tiny_pipeline()) for method, call in METHODS.items()}
    device = labelled_device.start()
    print(json.dumps(differences(device, expected)))
    print(json.dumps({name: waits_of_sampling(device, **settings) for name, settings in SETTINGS.items()}))


if __name__ == "__main__":
    main()
