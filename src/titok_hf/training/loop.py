"""The training loop: steps, averaged weights, log entries, evaluations, images, checkpoints."""

import itertools
import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed, tqdm
from PIL import Image
from torch import nn
from tqdm.contrib.logging import logging_redirect_tqdm

from titok_hf.checkpoints.atomic_files import write_atomically
from titok_hf.checkpoints.layout import checkpoint_atomically
from titok_hf.devices import moved_without_wait

from .checkpoints import Checkpoints, Gathered, Progress, written_together
from .configs import AdversarialConfig, OptimizationConfig, Recipe
from .optimization import AveragedWeights
from .processes import StopRequest, gather, raised_together, stop_for
from .recipes import RecipeError
from .run_folder import RunFolder
from .step import SHARDED, FiniteGuard, Learner, NotFiniteError, train_step
from .task import Batch, Scalars, Task
from .trackers import announcement, remaining, start_trackers

logger = logging.getLogger(__name__)

# Steps after which their losses are checked, if nothing is logged before.
_MOST_UNCHECKED_STEPS = 1_000


class TrainingLoop:
    """
    Trains a task by its recipe, or resumes the run in `output_dir`; see [`RunFolder`] for the files there.
    """

    def __init__(self, task: Task, recipe: Recipe, accelerator: Accelerator):
        early_step, num_steps = recipe.intervals.early_model_step, recipe.optimization.num_steps
        if early_step is not None and early_step > num_steps:
            raise RecipeError(f"intervals.early_model_step is {early_step}, but the run ends after step {num_steps}.")
        self.task, self.recipe, self.accelerator = task, recipe, accelerator
        self.folder = RunFolder(recipe.output_dir)
        if recipe.optimization.gradient_checkpointing:
            _enable_gradient_checkpointing(task.model)
        self.learners = {"model": Learner(task.model, recipe.optimization, accelerator)}
        if task.discriminator is not None:
            adversarial: AdversarialConfig = recipe.loss.adversarial  # type: ignore[attr-defined]
            self.learners["discriminator"] = Learner(
                task.discriminator, discriminator_optimization(recipe.optimization, adversarial), accelerator
            )
        self.modules = {name: learner.module for name, learner in self.learners.items()}
        self.guard = FiniteGuard(accelerator)
        self.ema = AveragedWeights(self._parameters(), decay=recipe.optimization.ema_decay, foreach=True)
        self.ema.to(accelerator.device)
        batch_size = examples_per_step(recipe.optimization, accelerator)
        self.progress = Progress(task.loader, batch_size, task.best)
        # Of the loader, before the first unchecked step and after each of them: a failed step goes back to its own.
        self._loader_states: list[Any] = []
        saved = [self.progress, *(learner.schedule for learner in self.learners.values()), *task.checkpointed()]
        accelerator.register_for_checkpointing(*saved)
        gathered = [each for each in saved if isinstance(each, Gathered)]
        self.checkpoints = Checkpoints(self.folder, accelerator, self.ema, gathered, recipe.system.save_on_each_node)

    @property
    def step(self) -> int:
        """Optimiser steps done so far."""
        return self.progress.step

    def run(self) -> Path:
        """
        Trains to the end of the schedule.

        Returns:
            the folder of the averaged model, `output_dir/model`.
        Raises:
            RecipeError: another run is training there, its global batch was another one, all of its checkpoints are
                damaged, or an image can't be read; in the last case the state before it is saved.
            FloatingPointError: loss or gradients are not finite; the state before that step is saved.
            KeyboardInterrupt, SystemExit: a signal asked the run to stop; the state is saved.
            MemoryError: the batch does not fit.
            OSError: a file can't be written, for example on a full disk; older checkpoints are unchanged.
        """
        self.checkpoints.check_nodes()
        with ExitStack() as lock:
            with raised_together(RecipeError):
                if self.checkpoints.is_writer:
                    lock.enter_context(self.folder.locked())
                    self.folder.check(self.recipe)
                    self.folder.check_data(self.task.data_record)
            self._resume()
            if self.checkpoints.is_writer:
                self.folder.claim(self.recipe, self.task.data_record)
            start_trackers(self.accelerator, self.recipe, self.folder)
            try:
                self._train()
            except RuntimeError as error:
                if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                    raise
                raise MemoryError(
                    f"A batch of {self.recipe.optimization.batch_size} does not fit into memory. Lower "
                    "optimization.batch_size and raise optimization.gradient_accumulation_steps as much, or set "
                    "optimization.gradient_checkpointing=true."
                ) from error
            self._save_model("model")
        return self.folder.path / "model"

    def _train(self) -> None:
        intervals, num_steps = self.recipe.intervals, self.recipe.optimization.num_steps
        self._say(announcement(self.recipe, self.accelerator, self.modules, self.task.loader, self.step))
        # No progress bar in a file, where it would be one endless line; log entries tell the progress too.
        interactive = sys.stderr.isatty() or "ipykernel" in sys.modules
        bar = tqdm(total=num_steps, initial=self.step, desc=self.recipe.kind, mininterval=5.0, disable=not interactive)
        for module in self.modules.values():
            module.train()
        self._began = start, start_step = time.monotonic(), self.step
        # The loader is closed at once after an error, so that no worker outlives the run.
        with (
            closing(bar),
            logging_redirect_tqdm(),
            closing(iter(self.task.loader)) as batches,
            StopRequest() as stop,
        ):
            while self.step < num_steps:
                scalars = self._train_step(self._next_batches(batches, stop))
                bar.update()
                due = (intervals.log_every, intervals.evaluate_every, intervals.checkpoint_every)
                if any(map(self._is_due, due)) or len(self.guard) >= _MOST_UNCHECKED_STEPS:
                    self._check_steps()
                if self._is_due(intervals.log_every):
                    steps_a_second = (self.step - start_step) / (time.monotonic() - start)
                    self._log(scalars, steps_a_second)
                if self._is_due(intervals.evaluate_every):
                    self._evaluate()
                if self._is_due(intervals.checkpoint_every):
                    self._save()
                if self.step == intervals.early_model_step:
                    self._save_model("early_model")
                if self._is_due(intervals.log_every):
                    start, start_step = time.monotonic(), self.step
            self._leave_if_asked(stop.agreed())

    def _next_batches(self, batches: Iterator[Batch], stop: StopRequest) -> list[Batch]:
        """The batches of the next step, unless a process is asked to stop or one of its batches can't be read."""
        try:
            error, taken = None, list(itertools.islice(batches, self.recipe.optimization.gradient_accumulation_steps))
        except (OSError, ValueError) as caught:
            error, taken = caught, []
        reason = stop.agreed(error is not None)
        if reason < 0:
            self._save_present_state()
            with raised_together(OSError, RecipeError):
                if error is not None:
                    kind = OSError if isinstance(error, OSError) else RecipeError
                    raise kind(f"data: {error} {self._resume_advice()}") from error
        self._leave_if_asked(reason)
        device = self.accelerator.device
        return [{name: moved_without_wait(values, device) for name, values in batch.items()} for batch in taken]

    def _leave_if_asked(self, signal_number: int) -> None:
        """Saves and ends all processes after a signal that one of them received; does nothing for 0."""
        if signal_number:
            self._save_present_state()
            message = (
                f"Stopped by {signal.Signals(signal_number).name} after step {self.step}. {self._resume_advice()}"
            )
            self._say(message)
            self.accelerator.end_training()
            raise stop_for(signal_number, message)

    def _save_present_state(self) -> None:
        self._check_steps()
        if self.step:
            self.checkpoints.save(self.step)

    def _resume_advice(self) -> str:
        newest = self.folder.newest_checkpoint()
        return "" if newest is None else f"The same command goes on from {newest}."

    def _train_step(self, batches: list[Batch]) -> Scalars:
        """One optimiser step over the accumulated batches, and what follows it."""
        if not self._loader_states:
            self._loader_states = [self.progress.loader_state]
        try:
            scalars, finite = train_step(
                self.task, self.learners, batches, self.accelerator, self.guard, self.recipe.seed, self.step
            )
        except NotFiniteError:
            self._check_steps()
            raise
        self.progress.step += 1
        self.progress.loader_state = self.task.loader.state_dict()
        self._loader_states.append(self.progress.loader_state)
        self.task.after_step()
        self.ema.step(self._parameters(), None if self.accelerator.distributed_type in SHARDED else finite)
        return scalars

    def _check_steps(self) -> None:
        """
        Waits for the steps since the last check, whose losses and gradients must be finite.

        Raises:
            FloatingPointError: those of a step are not. Nothing has changed since that step began. This state is
                saved, unless it is not finite either.
        """
        checked = self.guard.check()
        for name, num_steps in checked.left_out.items():
            self.learners[name].take_back(num_steps)
        states, self._loader_states = self._loader_states, []
        first_step = self.step - max(len(states) - 1, 0)
        if checked.error is not None:
            self.ema.optimization_step -= self.step - first_step - checked.num_taken
            self.progress.step, self.progress.loader_state = first_step + checked.num_taken, states[checked.num_taken]
            self._stop(checked.error)

    def _stop(self, error: NotFiniteError) -> NoReturn:
        """Raises the error of a failed step, after the state before it is saved unless that is not finite either."""
        if self._weights_are_finite():
            self.checkpoints.save(self.step)
            state = f"The state before that step is in {self.folder.newest_checkpoint()}. Go on from there"
        else:
            state = (
                "The weights were not finite before it either, so they are not saved. Go on from an older checkpoint"
            )
        raise FloatingPointError(
            f'{error} at step {self.step + 1}. {state} with optimization.mixed_precision "bf16" or "no" in place of '
            '"fp16", or start a new run with a lower learning rate.'
        ) from error

    def _weights_are_finite(self) -> bool:
        """Of all modules in all processes."""
        weights = (weight.detach() for module in self.modules.values() for weight in module.parameters())
        finite = torch.stack([weight.isfinite().all() for weight in weights]).all().int()
        return bool(self.accelerator.reduce(finite, "sum") == self.accelerator.num_processes)

    def _log(self, scalars: Scalars, steps_a_second: float) -> None:
        means = self.accelerator.reduce(torch.stack([value.float() for value in scalars.values()]), "mean").tolist()
        entry = dict(zip(scalars, means, strict=True)) | self.task.summary()
        for name, learner in self.learners.items():
            key = "learning_rate" if name == "model" else f"{name}/learning_rate"
            entry[key] = learner.schedule.get_last_lr()[0]
        if self.task.loader.skips_broken:
            entry["skipped_images"] = len(set().union(*gather(self.task.loader.skipped)))
        entry["images_per_second"] = steps_a_second * examples_per_step(self.recipe.optimization, self.accelerator)
        self._report(entry)

    @torch.no_grad()
    def _evaluate(self) -> None:
        """Evaluates the averaged weights. It does not change the random state of the run."""
        with self._averaged_weights():
            self.task.model.eval()
            with torch.random.fork_rng():
                measures, image = self.task.evaluate()
            self.task.model.train()
            self._report({f"test/{name}": value for name, value in measures.items()})
            self._show(image)
            name, larger_is_better = self.task.best
            best = self.progress.best
            if measures[name] > best if larger_is_better else measures[name] < best:  # False for NaN
                self.progress.best = measures[name]
                self._write_model("best_model")
        self.accelerator.wait_for_everyone()

    def _report(self, entry: dict[str, float]) -> None:
        with written_together("The metrics", self.folder):
            if self.accelerator.is_main_process:
                self.folder.append_metrics({"step": self.step} | entry)
            self.accelerator.log(entry, step=self.step)
        text = "  ".join(f"{name} {value:.4g}" for name, value in entry.items())
        num_steps, (start, start_step) = self.recipe.optimization.num_steps, self._began
        eta = remaining(self.step - start_step, num_steps - self.step, time.monotonic() - start)
        self._say(f"step {self.step:,} of {num_steps:,}, {eta} left: {text}")

    def _say(self, text: str) -> None:
        if self.accelerator.is_main_process:
            logger.info(text)

    def _show(self, image: Image.Image | None) -> None:
        with written_together("An image", self.folder):
            if image is None:
                return
            file = self.folder.path / "images" / f"step_{self.step:08d}.png"
            write_atomically(file, lambda path: image.save(path))
            for tracker in self.accelerator.trackers:
                if tracker.name == "tensorboard":
                    tracker.log_images({"test": np.asarray(image)[None]}, step=self.step, dataformats="NHWC")
                elif hasattr(tracker, "log_images"):
                    tracker.log_images({"test": [np.asarray(image)]}, step=self.step)

    def _save(self) -> None:
        """The whole state under `checkpoints/`, then the averaged model."""
        self.checkpoints.save(self.step)
        if self.checkpoints.is_writer:
            self.folder.remove_checkpoints_but(self.recipe.intervals.num_checkpoints)
        self._save_model("model")

    def _save_model(self, name: str) -> None:
        self._check_steps()
        with self._averaged_weights():
            self._write_model(name)
        self.accelerator.wait_for_everyone()

    def _write_model(self, name: str) -> None:
        weights = self.accelerator.get_state_dict(self.learners["model"].module)
        with written_together("The model", self.folder):
            if self.accelerator.is_main_process:
                # `torch.compile` adds this prefix to the names of parameters.
                weights = {key.replace("_orig_mod.", ""): value for key, value in weights.items()}
                with checkpoint_atomically(self.folder.path / name) as folder:
                    self.task.save(folder, weights)

    def _resume(self) -> None:
        """Loads the newest undamaged checkpoint, if there is one."""
        checkpoint = self.checkpoints.resume()
        if checkpoint is None:
            set_seed(self.recipe.seed, device_specific=True)
        else:
            self._say(f"resumed from {checkpoint}")
        if self.checkpoints.is_writer:
            self.folder.tidy(self.step)
        self.accelerator.wait_for_everyone()

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.recipe.optimization.num_steps

    def _parameters(self) -> list[nn.Parameter]:
        return list(self.learners["model"].module.parameters())

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        self.ema.store(self._parameters())
        self.ema.copy_to(self._parameters())
        try:
            yield
        finally:
            self.ema.restore(self._parameters())


def discriminator_optimization(optimization: OptimizationConfig, adversarial: AdversarialConfig) -> OptimizationConfig:
    """The optimiser values of the discriminator: those of the model with another learning rate and schedule length."""
    num_steps = optimization.num_steps - adversarial.start_step // adversarial.schedule_processes
    return replace(optimization, learning_rate=adversarial.learning_rate, num_steps=max(num_steps, 1))


def examples_per_step(optimization: OptimizationConfig, accelerator: Accelerator) -> int:
    """The global batch: examples of one optimiser step, over all processes."""
    return optimization.batch_size * optimization.gradient_accumulation_steps * accelerator.num_processes


def _enable_gradient_checkpointing(model: nn.Module) -> None:
    # The names of transformers since 5.23, of transformers before, and of diffusers.
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable", "enable_gradient_checkpointing")
    getattr(model, next(name for name in names if hasattr(model, name)))()
