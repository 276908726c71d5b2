"""Starts a run: the accelerator, the task of the recipe's kind, its initial weights, and the loop."""

import logging
from collections.abc import Iterable
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, InitProcessGroupKwargs, ProjectConfiguration, TorchDynamoPlugin, set_seed
from torch import nn
from transformers.utils import cached_file
from transformers.utils.logging import disable_progress_bar

from titok_hf.extras import extra_with

from .configs import Recipe
from .configs import load_training_recipe as load_training_recipe  # part of this module's interface
from .loop import TrainingLoop
from .processes import raised_together
from .recipes import RecipeError
from .report import check_push_access, push_model, write_report
from .run_folder import RunFolder
from .task import Task

logger = logging.getLogger(__name__)

# By kind of recipe: the module of its task, which is imported when it is needed, and what makes the task.
_TASKS = {
    "tokenizer": ("tokenizer", "single_stage_task"),
    "tokenizer_stage1": ("stage1", "Stage1Task"),
    "tokenizer_stage2": ("tokenizer", "stage2_task"),
    "vqgan": ("tokenizer", "vqgan_task"),
    "generator": ("generator", "GeneratorTask"),
    "classifier": ("classifier", "ClassifierTask"),
}


def train(recipe: Recipe) -> Path:
    """
    Trains by a recipe, or resumes the run in its `output_dir`.

    Returns:
        the folder of the model with averaged weights, for `from_pretrained`.
    Raises:
        RecipeError: the recipe, its data, its `output_dir` or the repository that it is pushed to can't be used.
        FloatingPointError, KeyboardInterrupt, MemoryError, SystemExit: see [`TrainingLoop.run`].
        OSError: a file can't be written, or the finished model can't be pushed.
    """
    folder = RunFolder(recipe.output_dir)
    folder.check(recipe)
    accelerator = make_accelerator(recipe)
    task = make_task(recipe, accelerator)
    is_adapter = getattr(recipe, "lora", None) is not None  # whose task has loaded `init_from` already
    if recipe.init_from is not None and not is_adapter and folder.newest_checkpoint() is None:
        load_initial_weights(task.model, recipe.init_from)
    with raised_together(RecipeError):
        if recipe.push_to_hub is not None and accelerator.is_main_process:
            check_push_access(recipe.push_to_hub)
    model = TrainingLoop(task, recipe, accelerator).run()
    is_main_process = accelerator.is_main_process
    with raised_together(OSError):
        if is_main_process:
            write_report(recipe, folder, accelerator.device.type, accelerator.num_processes)
    # An upload may take longer than processes wait for one another, so the others end first.
    accelerator.end_training()
    if is_main_process and recipe.push_to_hub is not None:
        logger.info(f"pushed to {push_model(recipe, folder)}")
    return model


def speak_of_training_only() -> None:
    """For a command: prints the log entries of a run, without messages and progress bars of libraries."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for library in ("accelerate", "httpx"):
        logging.getLogger(library).setLevel(logging.WARNING)
    disable_progress_bar()


def make_accelerator(recipe: Recipe) -> Accelerator:
    """
    The accelerator of a run. It is made before the model, because it sets the seed of the first weights.

    Raises:
        RecipeError: a tracker is not installed, or precision or sharding do not fit the device or the recipe.
    """
    available = {str(tracker) for tracker in get_available_trackers()}
    missing = [tracker for tracker in recipe.intervals.trackers if tracker not in available]
    if missing:
        extra = extra_with(missing[0])
        install = f'Install it with: pip install "titok-hf[{extra}]"' if extra else "Install it"
        raise RecipeError(
            f"intervals.trackers names {missing[0]!r}, which is not installed; there are "
            f"{', '.join(sorted(available)) or 'none'}. {install}, or leave it out."
        )
    set_seed(recipe.seed)
    optimization, system = recipe.optimization, recipe.system
    if system.allow_tf32 is not None:
        torch.backends.cuda.matmul.allow_tf32 = system.allow_tf32
        torch.backends.cudnn.allow_tf32 = system.allow_tf32
    torch.backends.cudnn.benchmark = system.cudnn_benchmark
    timeout = None if system.process_group_timeout is None else timedelta(seconds=system.process_group_timeout)
    accelerator = Accelerator(
        mixed_precision=optimization.mixed_precision,
        gradient_accumulation_steps=optimization.gradient_accumulation_steps,
        log_with=list(recipe.intervals.trackers) or None,
        project_config=ProjectConfiguration(
            project_dir=recipe.output_dir,
            logging_dir=f"{recipe.output_dir}/logs",
            save_on_each_node=system.save_on_each_node,
        ),
        kwargs_handlers=[] if timeout is None else [InitProcessGroupKwargs(timeout=timeout)],
        # None leaves the choice to `accelerate config`.
        dynamo_plugin=TorchDynamoPlugin(backend="inductor") if optimization.compile else None,
    )
    if optimization.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        # accelerate would train in float32 without a warning.
        raise RecipeError(
            'optimization.mixed_precision is "fp16", which a CPU does not train in. Use "bf16" or "no", or a GPU.'
        )
    _prepare_sharding(recipe, accelerator)
    return accelerator


def _prepare_sharding(recipe: Recipe, accelerator: Accelerator) -> None:
    """Gives DeepSpeed the values of the recipe, and refuses what cannot be sharded."""
    kind = accelerator.distributed_type
    adversarial = getattr(getattr(recipe, "loss", None), "adversarial", None)
    if adversarial is not None and kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise RecipeError(
            f"{kind.value} shards one model, but this recipe also has a discriminator. Use plain data parallelism "
            "(accelerate's MULTI_GPU)."
        )
    if kind != DistributedType.DEEPSPEED:
        return
    plugin = accelerator.state.deepspeed_plugin
    if plugin.zero_stage == 3:
        raise RecipeError(
            "ZeRO stage 3 splits parameters over processes, but averaging the weights needs whole parameters. Use "
            "stage 1 or 2, or FSDP."
        )
    # accelerate reads the first from a prepared loader, which there is not, and the second from its configuration.
    plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = recipe.optimization.batch_size
    plugin.deepspeed_config["gradient_clipping"] = recipe.optimization.max_grad_norm


def make_task(recipe: Recipe, accelerator: Accelerator) -> Task:
    """The task of a recipe's kind."""
    module, name = _TASKS[recipe.kind]
    return getattr(import_module(f".{module}", __package__), name)(recipe, accelerator)


def load_initial_weights(model: nn.Module, source: str) -> None:
    """
    Loads the weights of another model of the same class.

    Args:
        source: folder or Hub id of such a model, or of a pipeline that has one as its transformer.
    Raises:
        RecipeError: there is no such model, or its parameters have other names or shapes.
    """
    from .tokenizer import load_model

    subfolder = {"subfolder": "transformer"} if _is_pipeline(source) else {}
    weights = load_model(type(model), source, "init_from", **subfolder).state_dict()
    own = model.state_dict()
    shapes = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    differences = [
        f"{what} {_some(names)}"
        for what, names in (
            ("it lacks", own.keys() - weights.keys()),
            ("this model has no", weights.keys() - own.keys()),
            ("other shapes have", shapes),
        )
        if names
    ]
    if differences:
        raise RecipeError(
            f"init_from is {source!r}, whose weights do not fit the model of this recipe: {'; '.join(differences)}. "
            "Name a model of the same configuration, or change the recipe's model."
        )
    model.load_state_dict(weights)


def _is_pipeline(source: str) -> bool:
    quietly = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        return cached_file(source, "model_index.json", **quietly) is not None
    except (OSError, ValueError):  # no such folder or repository: `load_model` raises a clear error
        return False


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
