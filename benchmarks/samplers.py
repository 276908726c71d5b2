"""
Each sampler and kind of guidance at several numbers of steps, in the eyes of a classifier that took no part in them.

    python benchmarks/samplers.py RUN --judge JUDGE --data fashion-mnist --num-images 10000

For each sampler and number of steps, the best of a few settings is chosen by the Fréchet distance of images of one
seed, and judged on images of other seeds. RUN has a JSON file for each measurement, so that the same command goes on
where a killed one stopped, and `table.md`, which is written anew after each measurement. `--steps`, `--samplers` and
`--seeds` take a part of the table; measurements of other parts stay in the table.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import torch

from titok_hf.bundled import bundled_checkpoint
from titok_hf.checkpoints.atomic_files import write_atomically
from titok_hf.evaluation.evaluate_generation import GenerationPlan, generate
from titok_hf.evaluation.features import FeatureNetwork, FeatureSet, set_metrics
from titok_hf.evaluation.images import EvaluationImages
from titok_hf.modeling_maskgit import MaskGitTransformer1DModel
from titok_hf.pipeline_titok import TiTokPipeline
from titok_hf.scheduling_maskgit import MaskGitScheduler

SCALES = [2.0, 4.0]
SOFTMAX = {"softmax_temperature": [0.8, 1.0]}
NOISE = {"temperature": [1.0, 1.75, 3.0]}
# What is varied for each row of the table, beside what is fixed; fields that are not named are the checkpoint's.
ROWS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "as saved": ({}, {}),
    "confidence": ({"sampler": "confidence"}, NOISE | {"guidance_scale": SCALES}),
    "moment": ({"sampler": "moment"}, NOISE | {"guidance_scale": SCALES}),
    "random order": ({"sampler": "ordered"}, SOFTMAX | {"guidance_scale": SCALES}),
    "entropy-bounded": (
        {"sampler": "entropy-bounded"},
        {"entropy_bound": [1.0, 4.0, 16.0], "guidance_scale": SCALES},
    ),
    "ReMDM cap": ({"sampler": "remdm", "remask": "cap"}, {"eta": [0.05, 0.2], "guidance_scale": SCALES}),
    "ReMDM rescale": ({"sampler": "remdm", "remask": "rescale"}, {"eta": [0.1, 0.4], "guidance_scale": SCALES}),
    "ReMDM confidence": ({"sampler": "remdm", "remask": "confidence"}, {"guidance_scale": SCALES}),
    "ReMDM loop": ({"sampler": "remdm", "remask": "loop"}, {"eta": [0.05, 0.2], "guidance_scale": SCALES}),
    "unguided": ({"guidance_scale": 1.0}, NOISE),
    "constant scale": ({"guidance_schedule": "constant"}, {"guidance_scale": [1.5, 2.0, 3.0]}),
    "power-cosine scale": ({"guidance_schedule": "power-cosine"}, {"guidance_scale": [3.0, 6.0]}),
    "interval": (
        {"guidance_schedule": "constant"},
        {"guidance_interval": [[0.25, 0.75], [0.5, 1.0]], "guidance_scale": [2.0, 3.0]},
    ),
    "previous step": (
        {"guidance": "previous-step", "guidance_schedule": "constant"},
        {"guidance_scale": [1.25, 1.5, 2]},
    ),
    "autoguidance": (
        {"guidance": "autoguidance", "guidance_schedule": "constant"},
        {"guidance_scale": [1.5, 2.0, 3.0]},
    ),
}
COLUMNS = {"accuracy": 100.0, "frechet_distance": 1.0, "precision": 100.0, "recall": 100.0, "images_per_second": 1.0}


class Meter:
    """Generates images with a scheduler, and compares them with real ones in the features of a judge."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.pipe = TiTokPipeline.from_pretrained(options.model)
        self.pipe.set_progress_bar_config(disable=True)
        self.saved = self.pipe.scheduler
        self.judge = FeatureNetwork(options.judge, "cpu")
        self.guiding: dict[str, Any] = {}
        if options.guiding_model is not None:
            guiding = MaskGitTransformer1DModel.from_pretrained(options.guiding_model)
            self.guiding = {"guiding_transformer": guiding.eval()}
        size = self.pipe.tokenizer.config.image_size
        images = EvaluationImages(options.data, options.split, size, limit=options.num_real)
        self.real = FeatureSet()
        for pixels, _ in images.batches(options.batch_size):
            self.real.update(self.judge(pixels))
        self.batch_size = options.batch_size
        self.rows_computed = 0
        self.pipe.transformer.register_forward_pre_hook(self._count)

    def _count(self, module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        self.rows_computed += len(inputs[0])

    def __call__(self, settings: dict[str, Any], steps: int, seed: int, num_images: int) -> dict[str, Any]:
        """The metrics of images of a seed; `passes` are the images that the generator computed for each."""
        self.pipe.scheduler = MaskGitScheduler.from_config(self.saved.config, **settings)
        arguments = {"num_inference_steps": steps}
        if self.pipe.scheduler.config.guidance == "autoguidance":
            arguments |= self.guiding
        plan = GenerationPlan(num_images, self.pipe.classes.num_classes, seed, "round", arguments)
        made, hits, seconds, self.rows_computed = FeatureSet(), 0, 0.0, 0
        for labels, indices in zip(
            plan.labels.split(self.batch_size), plan.indices.split(self.batch_size), strict=True
        ):
            start = time.perf_counter()
            images = generate(self.pipe, labels.tolist(), indices.tolist(), plan)
            seconds += time.perf_counter() - start
            made.update(self.judge(images))
            hits += int((self.judge.classify(images) == labels).sum())
        measured = set_metrics(made, self.real, None, "frechet_distance", torch.device("cpu"))
        rates = {"images_per_second": num_images / seconds, "passes": self.rows_computed / num_images}
        return measured | {"accuracy": hits / num_images} | rates


def recorded(path: Path, key: dict[str, Any], meter: Meter, measure: tuple[Any, ...]) -> dict[str, Any]:
    """A measurement from its file, or made and written into it."""
    if path.is_file():
        return json.loads(path.read_text())
    record = key | meter(*measure)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())
    print(f"{path.stem}: {record['frechet_distance']:.2f}, {record['accuracy']:.1%}", flush=True)
    return record


def best_setting(folder: Path, row: str, steps: int, meter: Meter, options: argparse.Namespace) -> dict[str, Any]:
    """The setting of a row with the smallest distance on the images of the selection seed."""
    fixed, varied = ROWS[row]
    settings = [fixed | dict(zip(varied, values, strict=True)) for values in product(*varied.values())]
    if len(settings) == 1:
        return settings[0]
    tried = []
    for number, setting in enumerate(settings):
        name = f"{row.replace(' ', '-')}-{steps}-{number}"
        key = {"row": row, "steps": steps, "seed": options.selection_seed, "setting": setting}
        measure = (setting, steps, options.selection_seed, options.num_selection)
        tried.append(recorded(folder / "selection" / f"{name}.json", key, meter, measure))
    return min(tried, key=lambda record: record["frechet_distance"])["setting"]


def write_table(folder: Path) -> None:
    """`table.md`: mean and sample standard deviation over the seeds."""
    cells = defaultdict(list)
    for path in sorted((folder / "measured").glob("*.json")):
        record = json.loads(path.read_text())
        cells[record["steps"], list(ROWS).index(record["row"])].append(record)
    titles = ["steps", "sampler or guidance", "setting", "accuracy %", "distance", "precision %", "recall %"]
    titles += ["images/s", "passes", "seeds"]
    lines = [f"| {' | '.join(titles)} |", "|" + " --- |" * len(titles)]
    for (steps, row), records in sorted(cells.items()):
        texts = []
        for name, factor in COLUMNS.items():
            values = [factor * record[name] for record in records]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            texts.append(f"{statistics.mean(values):.1f}{spread}")
        setting = ", ".join(f"{name} {value}" for name, value in records[0]["setting"].items())
        name, passes = list(ROWS)[row], statistics.mean(record["passes"] for record in records)
        lines.append(f"| {steps} | {name} | {setting} | {' | '.join(texts)} | {passes:.1f} | {len(records)} |")
    write_atomically(folder / "table.md", ("\n".join(lines) + "\n").encode())


def check_same_run(options: argparse.Namespace) -> None:
    """The folder of a run keeps what its numbers depend on; SystemExit if that is something else now."""
    names = (
        "model",
        "judge",
        "data",
        "split",
        "num_images",
        "num_real",
        "num_selection",
        "selection_seed",
        "guiding_model",
    )
    own = {name: str(getattr(options, name)) for name in names}
    path = options.run / "run.json"
    if path.is_file() and json.loads(path.read_text()) != own:
        raise SystemExit(f"{path} has {json.loads(path.read_text())}, and this is {own}. Choose another folder.")
    options.run.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(own, indent=2) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--judge", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", default=str(bundled_checkpoint()))
    parser.add_argument("--guiding-model", help="a weaker generator; without it the row of autoguidance is left out")
    parser.add_argument("--samplers", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--steps", type=int, nargs="*", default=[8, 16, 4, 32])
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--num-images", type=int, default=10_000, help="made for each measurement")
    parser.add_argument("--num-real", type=int, default=10_000, help="real images, evenly spaced over the split")
    parser.add_argument("--selection-seed", type=int, default=0)
    parser.add_argument("--num-selection", type=int, default=1_000, help="images of each setting that is tried")
    parser.add_argument("--batch-size", type=int, default=100)
    options = parser.parse_args()
    check_same_run(options)
    meter = Meter(options)
    rows = [row for row in options.samplers if row != "autoguidance" or options.guiding_model is not None]
    for steps, row in product(options.steps, rows):
        setting = best_setting(options.run, row, steps, meter, options)
        for seed in options.seeds:
            key = {"row": row, "steps": steps, "seed": seed, "setting": setting}
            path = options.run / "measured" / f"{row.replace(' ', '-')}-{steps}-seed-{seed}.json"
            recorded(path, key, meter, (setting, steps, seed, options.num_images))
            write_table(options.run)


if __name__ == "__main__":
    main()
