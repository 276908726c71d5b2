"""The loop around every loss: devices, precision, schedule, averaged weights, logs, pictures, checkpoints."""

import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import ProjectConfiguration, set_seed, tqdm
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from titok_hf.atomic_files import folder_atomically, write_atomically

from .configs import GeneratorRecipe, OptimizationConfig, TokenizerRecipe
from .recipes import RecipeError, build_recipe, recipe_to_yaml

logger = get_logger(__name__)

# Embedding-like parameters are not decayed: the published recipes exclude every name with one of these parts. The
# decoder's input projection is among them, since the original calls it an embedding.
_NOT_DECAYED = ("norm", "token", "embedding", "codebook", "bias", "decoder.input_projection")


class Task(Protocol):
    """What a kind of model brings to the loop: its data, its loss, and how it is measured, shown and saved."""

    model: nn.Module
    dataset: Dataset

    def loss(self, model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        """Scalars to log; `loss` is the one that is minimised. `model` is `self.model`, wrapped for its processes."""

    def after_step(self) -> None:
        """Runs after each optimiser step."""

    def evaluate(self) -> tuple[dict[str, float], Image.Image]:
        """Measures on the test images and a picture, with the weights that the model has now."""

    def save(self, folder: Path) -> None:
        """Writes the model in `from_pretrained` format."""

    def checkpointed(self) -> list[Any]:
        """Further objects with `state_dict` and `load_state_dict` that a resumed run needs."""


class ShuffledStream(Sampler[int]):
    """
    Indices of an endless sequence of shuffled epochs, of which any stretch can be had without walking there: epoch n
    is the permutation that seed + n gives. That is what makes resumption exact.
    """

    def __init__(self, num_examples: int, seed: int, start: int, stop: int):
        self.num_examples = num_examples
        self.seed = seed
        self.start = start
        self.stop = stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[int]:
        position = self.start
        while position < self.stop:
            epoch, offset = divmod(position, self.num_examples)
            generator = torch.Generator().manual_seed(self.seed + epoch)
            order = torch.randperm(self.num_examples, generator=generator).tolist()
            yield from order[offset : offset + self.stop - position]
            position += self.num_examples - offset


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW groups: matrices and kernels decay; vectors and embedding-like parameters do not."""
    groups = {True: [], False: []}  # type: dict[bool, list[nn.Parameter]]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and not any(part in name for part in _NOT_DECAYED)
            groups[decays].append(parameter)
    return [{"params": groups[True], "weight_decay": weight_decay}, {"params": groups[False], "weight_decay": 0.0}]


def prepare_output_folder(recipe: TokenizerRecipe | GeneratorRecipe, accelerator: Accelerator) -> None:
    """
    Makes the run's folder and writes the recipe into it, or makes sure that the run there is this one.

    Raises:
        RecipeError: the folder belongs to something else, or to a run with another recipe; it is left as it is.
    """
    import yaml

    folder = Path(recipe.output_dir)
    recipe_file = folder / "recipe.yaml"
    if recipe_file.exists():
        there = build_recipe(type(recipe), yaml.safe_load(recipe_file.read_text(encoding="utf-8")))
        # How often it saves and where it lies change nothing; where it ends is the user's to reconsider.
        there.cadence, there.output_dir = recipe.cadence, recipe.output_dir
        there.optimization.num_steps = recipe.optimization.num_steps
        if there != recipe:
            raise RecipeError(
                f"{folder} holds a run with another recipe (see {recipe_file}). Resume it with the same recipe, or "
                "choose another output_dir."
            )
    elif folder.exists() and any(folder.iterdir()):
        raise RecipeError(f"{folder} is not empty and holds no run. Choose another output_dir.")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_atomically(recipe_file, recipe_to_yaml(recipe).encode())


class TrainingLoop:
    """
    Trains a task by its recipe and goes on where a killed run stopped.

    Args:
        task: what is trained.
        recipe: how; `output_dir` receives `checkpoints/`, `pictures/`, `logs/` (tensorboard) and `model/`.
        accelerator: made by the caller, who may have needed it for the data.
    """

    def __init__(self, task: Task, recipe: TokenizerRecipe | GeneratorRecipe, accelerator: Accelerator):
        self.task, self.recipe, self.accelerator = task, recipe, accelerator
        self.folder = Path(recipe.output_dir)
        optimization = recipe.optimization
        optimizer = torch.optim.AdamW(
            parameter_groups(task.model, optimization.weight_decay),
            lr=optimization.learning_rate,
            betas=optimization.betas,
            fused=True,
        )
        self.model, self.optimizer = accelerator.prepare(task.model, optimizer)
        # Left unprepared: a prepared schedule advances once a process and step, and would end sooner with several.
        self.schedule = get_cosine_with_min_lr_schedule_with_warmup(
            optimizer,
            num_warmup_steps=optimization.warmup_steps,
            num_training_steps=optimization.num_steps,
            min_lr=optimization.end_learning_rate,
        )
        self.ema = EMAModel(self._parameters(), decay=optimization.ema_decay, foreach=True)
        self.ema.to(accelerator.device)
        accelerator.register_for_checkpointing(self.schedule, self.ema, *task.checkpointed())
        self.step = 0

    def run(self) -> Path:
        """
        Trains to the end of the schedule.

        Returns:
            the folder of the averaged model, `output_dir/model`.
        Raises:
            FloatingPointError: the loss is not finite; the last checkpoint is as it was.
        """
        self._resume()
        # A loader with a generator of its own leaves the global random state, and so resumption, alone.
        loader = DataLoader(
            self.task.dataset,
            batch_size=self.recipe.optimization.batch_size,
            sampler=self._remaining_examples(),
            drop_last=True,
            generator=torch.Generator().manual_seed(self.recipe.seed),
        )
        loader = self.accelerator.prepare(loader)
        progress = tqdm(
            total=self.recipe.optimization.num_steps, initial=self.step, desc=self.recipe.kind, mininterval=5.0
        )
        self.model.train()
        start, start_step = time.monotonic(), self.step
        for batch in loader:
            scalars = self._accumulate(batch)
            if not self.accelerator.sync_gradients:
                continue
            self.step += 1
            progress.update()
            if self._is_due(self.recipe.cadence.log_every):
                steps_a_second = (self.step - start_step) / (time.monotonic() - start)
                self._log(scalars, steps_a_second)
                start, start_step = time.monotonic(), self.step
            if self._is_due(self.recipe.cadence.evaluate_every):
                self._evaluate()
            if self._is_due(self.recipe.cadence.checkpoint_every):
                self._save()
        self.accelerator.end_training()
        return self.folder / "model"

    def _accumulate(self, batch: Any) -> dict[str, torch.Tensor]:
        """One batch: forward, backward, and where enough have been added up, one optimiser step."""
        with self.accelerator.accumulate(self.model):
            with self.accelerator.autocast():
                scalars = self.task.loss(self.model, batch)
            self.accelerator.backward(scalars["loss"])
            if self.accelerator.sync_gradients:
                max_grad_norm = self.recipe.optimization.max_grad_norm
                scalars["grad_norm"] = self.accelerator.clip_grad_norm_(self.model.parameters(), max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        if self.accelerator.sync_gradients:
            self.schedule.step()
            self.task.after_step()
            self.ema.step(self._parameters())
        return scalars

    def _log(self, scalars: dict[str, torch.Tensor], steps_a_second: float) -> None:
        names, values = zip(*scalars.items(), strict=True)
        means = self.accelerator.reduce(torch.stack([value.detach().float() for value in values]), "mean").tolist()
        entry = dict(zip(names, means, strict=True))
        if not math.isfinite(entry["loss"]):
            raise FloatingPointError(
                f"The loss is {entry['loss']} at step {self.step}. Resume from the last checkpoint with a lower "
                'learning rate, or with mixed_precision "bf16" or "no" in place of "fp16".'
            )
        entry["learning_rate"] = self.schedule.get_last_lr()[0]
        entry["images_per_second"] = steps_a_second * _examples_per_step(self.recipe.optimization, self.accelerator)
        self._report(entry)

    @torch.no_grad()
    def _evaluate(self) -> None:
        """Measures and a picture with the averaged weights. Costs the run no random numbers."""
        if self.accelerator.is_main_process:
            self._swap_in_average()
            self.task.model.eval()
            with torch.random.fork_rng():
                measures, picture = self.task.evaluate()
            self.task.model.train()
            self.ema.restore(self._parameters())
            picture_file = self.folder / "pictures" / f"step_{self.step:08d}.png"
            write_atomically(picture_file, lambda path: picture.save(path))
            self._report({f"test/{name}": value for name, value in measures.items()})
        self.accelerator.wait_for_everyone()

    def _report(self, entry: dict[str, float]) -> None:
        self.accelerator.log(entry, step=self.step)
        text = "  ".join(f"{name} {value:.4g}" for name, value in entry.items())
        logger.info(f"step {self.step}: {text}", main_process_only=True)

    def _save(self) -> None:
        """The whole state under `checkpoints/`, then the averaged model; each is complete or not there."""
        checkpoint = self.folder / "checkpoints" / f"step_{self.step:08d}"
        unfinished = checkpoint.with_name("unfinished")
        self.accelerator.save_state(str(unfinished))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            os.replace(unfinished, checkpoint)
            for outdated in self._checkpoints()[: -self.recipe.cadence.num_checkpoints]:
                shutil.rmtree(outdated)
            self._swap_in_average()
            with folder_atomically(self.folder / "model") as folder:
                self.task.save(folder)
            self.ema.restore(self._parameters())
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        """Loads the newest checkpoint, if there is one."""
        if self.accelerator.is_main_process:
            shutil.rmtree(self.folder / "checkpoints" / "unfinished", ignore_errors=True)
        checkpoints = self._checkpoints()
        if checkpoints:
            self.step = int(checkpoints[-1].name.removeprefix("step_"))
            self.accelerator.load_state(str(checkpoints[-1]))
            logger.info(f"resumed from {checkpoints[-1]}", main_process_only=True)
        else:
            set_seed(self.recipe.seed, device_specific=True)

    def _checkpoints(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("step_*"))

    def _remaining_examples(self) -> ShuffledStream:
        examples = _examples_per_step(self.recipe.optimization, self.accelerator)
        return ShuffledStream(
            len(self.task.dataset),  # type: ignore[arg-type]
            seed=self.recipe.seed,
            start=self.step * examples,
            stop=self.recipe.optimization.num_steps * examples,
        )

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.recipe.optimization.num_steps

    def _parameters(self) -> list[nn.Parameter]:
        return list(self.accelerator.unwrap_model(self.model).parameters())

    def _swap_in_average(self) -> None:
        self.ema.store(self._parameters())
        self.ema.copy_to(self._parameters())


def make_accelerator(recipe: TokenizerRecipe | GeneratorRecipe) -> Accelerator:
    """
    The accelerator of a run, with its tensorboard log under `output_dir/logs`. Comes before the model is made: the
    recipe's seed decides the first weights too, the same in every process.
    """
    set_seed(recipe.seed)
    optimization = recipe.optimization
    accelerator = Accelerator(
        mixed_precision=optimization.mixed_precision,
        gradient_accumulation_steps=optimization.gradient_accumulation_steps,
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=recipe.output_dir, logging_dir=f"{recipe.output_dir}/logs"),
    )
    prepare_output_folder(recipe, accelerator)
    accelerator.init_trackers("titok")
    return accelerator


def _examples_per_step(optimization: OptimizationConfig, accelerator: Accelerator) -> int:
    return optimization.batch_size * optimization.gradient_accumulation_steps * accelerator.num_processes


__all__ = ["ShuffledStream", "Task", "TrainingLoop", "make_accelerator", "parameter_groups", "prepare_output_folder"]
