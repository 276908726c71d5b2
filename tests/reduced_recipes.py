"""
Every recipe of the package, made small enough for ten steps on a CPU, and run through the trainer's own command.

As a script, under `torchrun`: runs all of them one after the other with as many processes as it is launched with.

    torchrun --nproc_per_node 2 tests/reduced_recipes.py FOLDER GLOBAL_BATCH_SIZE
"""

import json
import os
import sys
import traceback
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from transformers import ConvNextConfig, ConvNextForImageClassification
from transformers.utils.logging import disable_progress_bar

from double_precision import in_float64, recorded_gaps
from titok_hf.configuration_maskgit_vqgan import MaskGitVQGANConfig
from titok_hf.configuration_titok import TiTokConfig
from titok_hf.data.crops import PretokenizeSettings
from titok_hf.data.encoders import ImageEncoder
from titok_hf.data.pretokenize import pretokenize
from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANModel
from titok_hf.modeling_titok import TiTokModel
from titok_hf.training.configs import GeneratorRecipe, PixelLossConfig, Stage1Recipe, Stage2Recipe, VQGANRecipe
from titok_hf.training.recipes import RECIPES_FOLDER
from titok_hf.training.start import load_training_recipe
from training_runs import train_command

CLASSIFIERS = ["fashion_classifier", "fashion_judge"]
RECIPES = sorted(path.stem for path in RECIPES_FOLDER.glob("*.yaml") if path.stem not in CLASSIFIERS)
NUM_STEPS = 10

_VITS = {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}.items()
}
_TOKENIZER = _VITS | {
    "image_size": 32,
    "patch_size": 8,
    "num_latent_tokens": 4,
    "codebook_size": 16,
    "codebook_dim": 4,
}
_VQGAN = {
    "base_channels": 8,
    "channel_multipliers": [1, 1, 1, 2],
    "num_resnet_blocks": 1,
    "num_groups": 4,
    "codebook_size": 16,
    "codebook_dim": 4,
}
_GENERATOR = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "dropout": 0.0,  # whose draws are each process's own
}


def prepare_models(folder: Path, pictures: Path) -> None:
    """What recipes start from: a teacher, a stage-1 tokenizer, a tokenizer with its codes, a ConvNeXt."""
    torch.manual_seed(0)
    vqgan = MaskGitVQGANModel(MaskGitVQGANConfig(**_VQGAN))
    spread_weights(vqgan).save_pretrained(folder / "teacher")
    two_stage = {"decoder_head": "proxy_codes", "proxy_codebook_size": _VQGAN["codebook_size"]}
    spread_weights(TiTokModel(TiTokConfig(**_TOKENIZER, **two_stage))).save_pretrained(folder / "stage1")
    spread_weights(TiTokModel(TiTokConfig(**_TOKENIZER))).save_pretrained(folder / "tokenizer")
    convnext = ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], image_size=32, num_labels=10)
    spread_weights(ConvNextForImageClassification(convnext)).save_pretrained(folder / "convnext")
    encoder = ImageEncoder(str(folder / "tokenizer"))
    for split in ("train", "test"):
        pretokenize(pictures, folder / "codes", encoder, PretokenizeSettings("flip"), split=split, workers=0)


def spread_weights(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights large enough for different images to get different codes and logits."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model


def reduced(name: str, folder: Path, pictures: Path, batch_size: int) -> list[str]:
    """
    The overrides that make a recipe small. Losses, weights of losses, betas, decays and learning rates stay its own.

    Args:
        folder: with what `prepare_models` made.
        batch_size: of a process.
    """
    recipe = load_training_recipe(name)
    values: dict[str, object] = {
        "optimization.num_steps": NUM_STEPS,
        "optimization.warmup_steps": 5,
        "optimization.batch_size": batch_size,
        "optimization.mixed_precision": "no",
        "intervals": "{log_every: 1, evaluate_every: 10, checkpoint_every: 10, num_test_images: 4, trackers: []}",
    }
    if isinstance(recipe, GeneratorRecipe):
        values |= {"tokenizer": folder / "tokenizer", "codes.source": folder / "codes", "codes.test_split": "test"}
        values |= {"codes.test_source": "null"}
        values |= {f"model.{key}": value for key, value in _GENERATOR.items()}
    else:
        values |= {"data.source": pictures, "data.image_size": 32, "data.test_split": "test", "data.num_workers": 0}
    if isinstance(recipe, Stage1Recipe | Stage2Recipe):
        values["teacher"] = folder / "teacher"
    if isinstance(recipe, Stage2Recipe):
        values["tokenizer"] = folder / "stage1"
    elif not isinstance(recipe, GeneratorRecipe):
        model = _VQGAN if isinstance(recipe, VQGANRecipe) else _TOKENIZER
        values |= {f"model.{key}": value for key, value in model.items()}
    if isinstance(recipe.loss, PixelLossConfig):
        if recipe.loss.perceptual is not None:
            values |= {"loss.perceptual.model": folder / "convnext", "loss.perceptual.lpips_weight": 0}
        if recipe.loss.adversarial is not None:
            values |= {"loss.adversarial.start_step": 5, "loss.adversarial.hidden_channels": 32}
            values |= {"loss.adversarial.num_stages": 1}
    return [f"{key}={value}" for key, value in values.items()]


def run(name: str, folder: Path, pictures: Path, output: Path, batch_size: int) -> None:
    """
    Trains a reduced recipe through the command, into `output/NAME`. How close its codes were decided, step by step, is
    written to `output/NAME.gaps.json`, an error to `output/NAME.txt`.
    """
    overrides = [*reduced(name, folder, pictures, batch_size), f"output_dir={output / name}"]
    try:
        with recorded_gaps() as gaps:
            train_command([name, *(argument for override in overrides for argument in ("--set", override))])
        (output / f"{name}.gaps.json").write_text(json.dumps(gaps))
    except (Exception, SystemExit):
        (output / f"{name}.txt").write_text(traceback.format_exc())
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def run_classifier(name: str, pictures: Path, output: Path) -> None:
    """Trains a classifier's recipe for two steps through its command."""
    options = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8}
    if name == "fashion_judge":
        del options["groups_width"]
    overrides = [f"output_dir={output}", f"data.source={pictures}", "intervals.trackers=[]"]
    overrides += [f"model.{key}={value}" for key, value in options.items()]
    overrides += [f"optimization.{value}" for value in ("num_steps=2", "batch_size=10", "mixed_precision=no")]
    train_command([name, *(argument for override in overrides for argument in ("--set", override))])


def run_all(folder: Path, pictures: Path, output: Path, batch_size: int) -> None:
    """Runs every recipe of the trainer, in float64, so that runs with different numbers of processes compare."""
    disable_progress_bar()
    output.mkdir(exist_ok=True)
    with in_float64():
        for name in RECIPES:
            run(name, folder, pictures, output, batch_size)


if __name__ == "__main__":
    # The processes stay together from recipe to recipe; a trainer's command would end their group with itself.
    PartialState.destroy_process_group = lambda self, group=None: None
    workplace, global_batch_size = Path(sys.argv[1]), int(sys.argv[2])
    processes = int(os.environ["WORLD_SIZE"])
    run_all(workplace, workplace / "pictures", workplace / f"with_{processes}", global_batch_size // processes)
    if torch.distributed.is_initialized():
        # A process that ends with its group still there may abort: the group's threads are joined nowhere else.
        torch.distributed.destroy_process_group()
