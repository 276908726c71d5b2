"""What the training loop costs beside the training, and the memory of a step.

    python benchmarks/training.py overhead fashion
    python benchmarks/training.py overhead photos --num-workers 1
    python benchmarks/training.py memory

`overhead` alternates, in one process, rounds of the whole loop (it reads and decodes images, guards, clips, averages
weights, logs) and of a bare one: forward, backward, clipping and optimiser step of an equal model, on a batch that
lies ready. `fashion` is the bundled tokenizer with 64 images of Fashion-MNIST a step (Debian package
dataset-fashion-mnist), `photos` a tokenizer of 256 x 256 pixels with 8 photo-like JPEGs a step (see prepare.py). It
prints medians over the rounds, of wall-clock time and of the processor time of the main thread; the latter hardly
depends on what else the machine does, but knows nothing of decoding in workers.

`memory` prints peak resident memory of forward and backward pass in float32 of L-32, in a fresh process for each
figure: after the forward pass, when all activations are there and no gradients, and at the end. Without optimiser:
AdamW adds 8 bytes a trained weight, the average of the weights 4.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FASHION_MNIST = "/usr/share/datasets/fashion-mnist"

# The sizes of recipes/fashion_tokenizer.yaml, and a small model of the published image size.
FASHION = {
    "patch_size": 4,
    "encoder_hidden_size": 128,
    "encoder_num_hidden_layers": 3,
    "encoder_num_attention_heads": 2,
    "decoder_hidden_size": 192,
    "decoder_num_hidden_layers": 3,
    "decoder_num_attention_heads": 3,
    "num_latent_tokens": 32,
    "codebook_size": 1024,
}
PHOTOS = {
    "encoder_hidden_size": 256,
    "encoder_num_hidden_layers": 4,
    "encoder_num_attention_heads": 4,
    "decoder_hidden_size": 256,
    "decoder_num_hidden_layers": 4,
    "decoder_num_attention_heads": 4,
    "num_latent_tokens": 64,
    "codebook_size": 4096,
}


def overhead(name: str, rounds: int, steps: int, num_workers: int) -> None:
    """Prints the time of a step of either loop, and their ratio."""
    from prepare import make_photos

    with tempfile.TemporaryDirectory() as folder:
        if name == "fashion":
            data: dict[str, Any] = {"source": FASHION_MNIST, "image_size": 32, "resize_mode": "pad"}
            model, batch_size = FASHION, 64
        else:
            photos = make_photos(Path(folder, "pictures"), 400)
            data = {"source": str(photos), "image_size": 256, "test_split": None, "random_crop": True}
            model, batch_size = PHOTOS, 8
        values = {
            "kind": "tokenizer",
            "output_dir": str(Path(folder, "run")),
            "data": data | {"horizontal_flip": True, "num_workers": num_workers},
            "model": model | {"codebook_dim": 12, "decoder_head": "pixels"},
            "loss": {"reinitialize_codes": False},
            "optimization": {"num_steps": (rounds + 1) * steps + 1, "batch_size": batch_size, "learning_rate": 1e-4},
            "intervals": {"log_every": steps, "num_test_images": 16}
            | dict.fromkeys(("evaluate_every", "checkpoint_every"), 10**9),
        }
        times = alternate(values, steps)
    print(f"{name}: batch {batch_size}, {rounds} rounds of {steps} steps, {num_workers} workers")
    for clock, pairs in times.items():
        bare, whole = (statistics.median(column) / steps * 1e3 for column in zip(*pairs[:rounds], strict=True))
        ratio = statistics.median(ours / theirs for theirs, ours in pairs[:rounds])
        print(f"  {clock:9}  bare {bare:8.2f} ms   loop {whole:8.2f} ms   ratio {ratio:.3f}")


class _Done(Exception):
    """The last round is over."""


def alternate(values: dict[str, Any], steps: int) -> dict[str, list[tuple[float, float]]]:
    """Runs the real loop and stops it every `steps` steps for a round of the bare one; seconds of both by clock."""
    from titok_hf.training.configs import RECIPES
    from titok_hf.training.loop import TrainingLoop
    from titok_hf.training.recipes import build_recipe
    from titok_hf.training.run_folder import RunFolder
    from titok_hf.training.start import make_accelerator, make_task

    recipe = build_recipe(RECIPES[values["kind"]], values)
    accelerator = make_accelerator(recipe)
    task = make_task(recipe, accelerator)
    RunFolder(recipe.output_dir).claim(recipe)
    accelerator.init_trackers("titok")
    step_of_bare_loop = bare_loop(recipe, task)
    clocks: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.thread_time}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in clocks}
    start: dict[str, float] = {}
    loop = TrainingLoop(task, recipe, accelerator)

    def after_step() -> None:
        # Step 1 warms up, so that a round ends with its entry's reductions behind it: it is written at multiples.
        if loop.step % steps != 1:
            return
        ours = {name: clock() - start[name] for name, clock in clocks.items()} if start else None
        before = {name: clock() for name, clock in clocks.items()}
        for _ in range(steps):
            step_of_bare_loop()
        for name, clock in clocks.items():
            if ours is not None:
                times[name].append((clock() - before[name], ours[name]))
            start[name] = clock()
        if loop.step + steps > recipe.optimization.num_steps:
            raise _Done

    task.after_step = after_step
    try:
        loop.run()
    except _Done:
        return times
    raise RuntimeError("the run ended before its last round")


def bare_loop(recipe: Any, task: Any) -> Callable[[], None]:
    """One step of what the loop is measured against."""
    import copy

    import torch
    import torch.nn.functional as F

    from titok_hf.training.optimization import make_optimizer

    model = copy.deepcopy(task.model).train()
    optimizer = make_optimizer(model, recipe.optimization)
    images = next(iter(task.loader))["pixels"].float() / 255

    def step() -> None:
        output = model(images, return_loss=True)
        loss = F.mse_loss(output.pixel_values, images) + output.loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optimization.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def memory(variant: str) -> None:
    """Prints the peak of a process for each stage, batch size, and with gradient checkpointing or without."""
    print("| stage | batch size | gradient checkpointing | weights | gradients | peak of forward pass | peak |")
    print("|---|---|---|---|---|---|---|")
    for stage, batch_size in ((1, 1), (1, 2), (1, 8), (2, 1), (2, 2)):
        for checkpointing in ("off", "on"):
            command = [sys.executable, __file__, "step", variant, str(stage), str(batch_size)]
            command += ["--gradient-checkpointing"] * (checkpointing == "on")
            figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            columns = " | ".join(f"{value:.2f} GiB" for value in figures)
            print(f"| {stage} | {batch_size} | {checkpointing} | {columns} |", flush=True)


def step(variant: str, stage: int, batch_size: int, gradient_checkpointing: bool) -> None:
    """Forward and backward of a step in this process; prints the GiB of one row of the table."""
    import torch

    from titok_hf.configuration_titok import TiTokConfig
    from titok_hf.modeling_titok import TiTokModel

    config = TiTokConfig.from_variant(variant, **({"pixel_decoder": None} if stage == 1 else {}))
    with torch.device("meta"):
        model = TiTokModel(config)
    model.to_empty(device="cpu").train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.02, 0.02)  # what it computes does not matter
    if stage == 2:
        model.encoder.requires_grad_(False)
        model.quantizer.requires_grad_(False)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable()
    output = model(torch.rand(batch_size, 3, config.image_size, config.image_size), return_loss=True)
    result = output.logits if stage == 1 else output.pixel_values
    loss = result.float().square().mean() + output.loss
    peak_of_forward_pass = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in kB
    loss.backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weights = sum(parameter.nbytes for parameter in model.parameters()) / 2**10
    gradients = sum(parameter.grad.nbytes for parameter in model.parameters() if parameter.grad is not None) / 2**10
    print(json.dumps([size / 2**20 for size in (weights, gradients, peak_of_forward_pass, peak)]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    overhead_parser = commands.add_parser("overhead")
    overhead_parser.add_argument("name", choices=["fashion", "photos"])
    overhead_parser.add_argument("--rounds", type=int, default=7)
    overhead_parser.add_argument("--steps", type=int, default=20)
    overhead_parser.add_argument("--num-workers", type=int, default=0)
    commands.add_parser("memory").add_argument("variant", nargs="?", default="l32")
    step_parser = commands.add_parser("step", help="one figure of `memory`")
    step_parser.add_argument("variant")
    step_parser.add_argument("stage", type=int, choices=[1, 2])
    step_parser.add_argument("batch_size", type=int)
    step_parser.add_argument("--gradient-checkpointing", action="store_true")
    options = vars(parser.parse_args())
    {"overhead": overhead, "memory": memory, "step": step}[options.pop("command")](**options)
