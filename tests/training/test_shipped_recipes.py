"""The recipes of the package: they say what was published, and all of them train, alone and with two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import reduced_recipes
from double_precision import TIE, in_float64
from reduced_recipes import CLASSIFIERS, NUM_STEPS, RECIPES
from titok_hf.configuration_maskgit import MASKGIT_VARIANTS
from titok_hf.configuration_maskgit_vqgan import MaskGitVQGANConfig
from titok_hf.configuration_titok import TITOK_VARIANTS, TiTokConfig
from titok_hf.modeling_maskgit import MaskGitTransformer1DModel
from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANModel
from titok_hf.modeling_titok import TiTokModel
from titok_hf.original.released import RELEASED_TOKENIZERS, RELEASED_VQGANS
from titok_hf.scheduling_maskgit import SAMPLER_VARIANTS, MaskGitScheduler
from titok_hf.training.classifier import build_classifier
from titok_hf.training.configs import GeneratorRecipe, Stage1Recipe, TokenizerRecipe, VQGANRecipe
from titok_hf.training.recipes import RECIPES_FOLDER
from titok_hf.training.start import load_training_recipe
from titok_hf.training.tokenizer import build_config, tokenizer_config

TWO_STAGE = ("l32", "b64", "s128", "l64_512", "b128_512")
SINGLE_STAGE = tuple(name for name in TITOK_VARIANTS if name not in TWO_STAGE and not name.startswith("one_d_piece"))

# arXiv 2406.07550, arXiv 2501.07730 and the public configuration files of the original: what all recipes of a kind
# have in common. The number of processes is the published one of GPUs.
PUBLISHED = {
    "stage1": {
        "steps": 1_000_000,
        "processes": 8,
        "global_batch": 256,
        "learning_rate": (1e-4, 1e-5),
        "warmup_steps": 10_000,
        "betas": (0.9, 0.99),
        "weight_decay": 1e-4,
        "precision": "fp16",
    },
    "stage2": {
        "steps": 500_000,
        "processes": 8,
        "global_batch": 256,
        "learning_rate": (1e-4, 1e-5),
        "warmup_steps": 5_000,
        "betas": (0.9, 0.999),
        "weight_decay": 1e-4,
        "precision": "fp16",
    },
    "single_stage": {
        "steps": 650_000,
        "processes": 8,
        "global_batch": 256,
        "learning_rate": (1e-4, 1e-5),
        "warmup_steps": 10_000,
        "betas": (0.9, 0.999),
        "weight_decay": 1e-4,
        "precision": "fp16",
    },
    "generator": {
        "steps": 500_000,
        "processes": 32,
        "global_batch": 2048,
        "learning_rate": (2e-4, 1e-5),
        "warmup_steps": 10_000,
        "betas": (0.9, 0.96),
        "weight_decay": 0.03,
        "precision": "bf16",
    },
}
OF_KIND = {
    "stage1": [f"titok_{variant}_stage1" for variant in TWO_STAGE],
    "stage2": [f"titok_{variant}_stage2" for variant in TWO_STAGE],
    "single_stage": [f"titok_{variant}" for variant in SINGLE_STAGE],
    "generator": [f"maskgit_{variant}" for variant in MASKGIT_VARIANTS],
}


def test_there_is_a_recipe_for_everything_published_and_for_the_bundled_model():
    fashion = ["vqgan", "stage1", "stage2", "two_stage_generator", "tokenizer", "tail_drop", "generator"]
    published = [name for names in OF_KIND.values() for name in names]
    assert sorted([*published, *(f"fashion_{name}" for name in fashion)]) == RECIPES
    assert {path.stem for path in RECIPES_FOLDER.iterdir()} == {*RECIPES, *CLASSIFIERS}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in OF_KIND.items() for name in names])
def test_a_published_recipe_has_the_published_figures(kind, name):
    recipe = load_training_recipe(name)
    optimization = recipe.optimization
    assert {
        "steps": optimization.num_steps,
        "processes": PUBLISHED[kind]["processes"],
        "global_batch": optimization.batch_size
        * optimization.gradient_accumulation_steps
        * PUBLISHED[kind]["processes"],
        "learning_rate": (optimization.learning_rate, optimization.end_learning_rate),
        "warmup_steps": optimization.warmup_steps,
        "betas": optimization.betas,
        "weight_decay": optimization.weight_decay,
        "precision": optimization.mixed_precision,
    } == PUBLISHED[kind]
    assert (optimization.max_grad_norm, optimization.ema_decay) == (1.0, 0.999)
    assert recipe.output_dir == f"runs/{name}"
    if kind != "generator":
        data = recipe.data
        assert (data.source, data.test_split) == ("ILSVRC/imagenet-1k", "validation")
        assert data.random_crop and data.horizontal_flip
        assert data.image_size == (512 if "512" in name else 256)


@pytest.mark.parametrize("variant", TWO_STAGE)
def test_the_two_stages_have_the_published_losses(variant):
    first, second = load_training_recipe(f"titok_{variant}_stage1"), load_training_recipe(f"titok_{variant}_stage2")
    assert (first.model, first.loss.quantizer_weight) == ({"variant": variant, "commitment_cost": 0.25}, 1.0)
    assert not first.loss.reinitialize_codes
    file = "tokenizer_imagenet512_checkpoint" if variant.endswith("_512") else RELEASED_VQGANS["imagenet256"].file
    assert first.teacher == second.teacher == f"checkpoints/{file}"
    assert second.tokenizer == f"{first.output_dir}/model"
    loss = second.loss
    assert (loss.reconstruction_weight, loss.quantizer_weight) == (1.0, 0.0)
    assert (loss.perceptual.model, loss.perceptual.logits_weight) == ("ConvNeXt_Small_Weights.IMAGENET1K_V1", 0.1)
    assert (loss.perceptual.features_weight, loss.perceptual.lpips_weight) == (0.0, 0.0)
    assert (loss.adversarial.weight, loss.adversarial.start_step) == (0.01, 20_000)
    assert (loss.adversarial.learning_rate, loss.adversarial.lecam_weight) == (1e-4, 0.001)
    assert loss.adversarial.schedule_processes == PUBLISHED["stage2"]["processes"]


@pytest.mark.parametrize("variant", SINGLE_STAGE)
def test_the_single_stage_has_the_published_losses(variant):
    recipe = load_training_recipe(f"titok_{variant}")
    loss, is_vq = recipe.loss, variant.endswith("vq8k")
    assert recipe.model["variant"] == variant
    assert (loss.reconstruction_weight, loss.quantizer_weight) == (1.0, 1.0 if is_vq else 1e-6)
    assert loss.reinitialize_codes is is_vq
    # 1.1 times the average of LPIPS and logits, weighted 1.0 and 0.1.
    assert (loss.perceptual.lpips_weight, loss.perceptual.logits_weight) == (1.0, 0.1)
    assert (loss.perceptual.model, loss.perceptual.lpips_network) == ("ConvNeXt_Small_Weights.IMAGENET1K_V1", "vgg")
    assert (loss.adversarial.weight, loss.adversarial.start_step) == (0.1, 200_000)
    assert (loss.adversarial.learning_rate, loss.adversarial.lecam_weight) == (1e-4, 0.001)
    assert loss.adversarial.schedule_processes == PUBLISHED["single_stage"]["processes"]


@pytest.mark.parametrize("variant", MASKGIT_VARIANTS)
def test_the_generators_have_the_published_losses_and_samplers(variant):
    recipe = load_training_recipe(f"maskgit_{variant}")
    loss = recipe.loss
    assert (loss.label_smoothing, loss.unmasked_weight, loss.class_dropout) == (0.1, 0.1, 0.1)
    if variant in SAMPLER_VARIANTS:
        assert recipe.tokenizer == RELEASED_TOKENIZERS[variant].repository
        sampler, published = MaskGitScheduler(4096, **recipe.sampler), MaskGitScheduler.from_variant(variant)
        # A config also tells which of its values were given.
        wanted = {name: value for name, value in published.config.items() if not name.startswith("_")}
        assert {name: sampler.config[name] for name in wanted} == wanted
    else:
        assert recipe.tokenizer == f"{load_training_recipe(f'titok_{variant}_stage2').output_dir}/model"


@pytest.mark.parametrize("name", [*RECIPES, *CLASSIFIERS])
def test_a_recipe_builds_its_model(name):
    """On the meta device: sizes fit one another, and nothing is allocated."""
    with torch.device("meta"):
        recipe = load_training_recipe(name)
        if name in CLASSIFIERS:
            assert build_classifier(recipe.model, ["a", "b"]).num_parameters() > 0
            return
        if isinstance(recipe, GeneratorRecipe):
            assert_generator_is_that_of_its_tokenizer(name, recipe)
        elif isinstance(recipe, VQGANRecipe):
            assert MaskGitVQGANModel(build_config(MaskGitVQGANConfig, recipe.model)).num_parameters() > 0
        elif isinstance(recipe, TokenizerRecipe | Stage1Recipe):
            two_stage = {"decoder_head": "proxy_codes"} if isinstance(recipe, Stage1Recipe) else {}
            config = tokenizer_config(two_stage | recipe.model, recipe.data.image_size)
            assert TiTokModel(config).num_parameters() > 0
            if "variant" in recipe.model:
                published = TiTokConfig.from_variant(recipe.model["variant"])
                assert config.to_dict() == published.to_dict()


def assert_generator_is_that_of_its_tokenizer(name: str, recipe: GeneratorRecipe) -> None:
    variant = name.removeprefix("maskgit_")
    MaskGitScheduler(mask_token_id=1, **recipe.sampler)
    if variant not in MASKGIT_VARIANTS:
        assert MaskGitTransformer1DModel(codebook_size=8, num_latent_tokens=4, **recipe.model).num_parameters() > 0
        return
    tokens = TITOK_VARIANTS[variant]["num_latent_tokens"]
    model = MaskGitTransformer1DModel(num_latent_tokens=tokens, **recipe.model)
    assert dict(model.config) == dict(MaskGitTransformer1DModel.from_variant(variant).config)


@pytest.fixture(scope="module")
def workplace(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models and codes that the reduced recipes start from, and the pictures."""
    folder = tmp_path_factory.mktemp("reduced")
    (folder / "pictures").symlink_to(picture_folder)
    with in_float64():
        reduced_recipes.prepare_models(folder, folder / "pictures")
    return folder


@pytest.fixture(scope="module")
def two_processes(workplace: Path) -> Path:
    """The runs of all recipes with two processes that share the batch: one launch for all of them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    launched = subprocess.run(
        [*command, reduced_recipes.__file__, str(workplace), "4"], env=environment, capture_output=True, text=True
    )
    assert launched.returncode == 0, launched.stderr[-3000:]
    return workplace / "with_2"


@pytest.fixture(scope="module")
def one_process(workplace: Path) -> Path:
    """The runs of all recipes, in this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    reduced_recipes.run_all(workplace, workplace / "pictures", workplace / "with_1", batch_size=4)
    torch.set_num_threads(threads)
    return workplace / "with_1"


def entries(runs: Path, name: str) -> list[dict[str, Any]]:
    error = runs / f"{name}.txt"
    assert not error.exists(), error.read_text()
    return [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_reduced_recipe_runs_alone(name, one_process):
    steps = [entry for entry in entries(one_process, name) if "loss" in entry]
    assert [entry["step"] for entry in steps] == list(range(1, NUM_STEPS + 1))
    assert all(torch.isfinite(torch.tensor(list(entry.values()))).all() for entry in steps)
    recipe = load_training_recipe(name)
    if getattr(recipe.loss, "adversarial", None) is not None:
        assert {"adversarial_loss", "discriminator/loss", "discriminator/lecam_loss"} <= steps[-1].keys()
    assert list((one_process / name / "model").rglob("*.safetensors"))


def step_of_first_tie(runs: Path, name: str) -> int:
    """The first step, from 1, in which a token was as near to a second code but for rounding; else beyond the run."""
    gaps = json.loads((runs / f"{name}.gaps.json").read_text())
    return next((step for step, gap in enumerate(gaps, start=1) if gap < TIE), NUM_STEPS + 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_have_the_losses_of_one(name, one_process, two_processes):
    alone, together = entries(one_process, name), entries(two_processes, name)
    assert len(alone) == len(together) > NUM_STEPS
    first_tie = step_of_first_tie(one_process, name)
    assert first_tie > 3  # or this test would say nothing
    for expected, entry in zip(alone, together, strict=True):
        assert entry.keys() == expected.keys()
        if entry["step"] >= first_tie:
            continue
        for key in entry.keys() - {"images_per_second"}:
            assert entry[key] == pytest.approx(expected[key], rel=1e-7, abs=1e-7), (key, entry["step"])


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_have_the_weights_of_one(name, one_process, two_processes):
    if step_of_first_tie(one_process, name) <= NUM_STEPS:
        pytest.skip("two codes tie in this run, and rounding decides between them")
    for file in (one_process / name / "model").rglob("*.safetensors"):
        expected, weights = load_file(file), load_file(two_processes / file.relative_to(one_process))
        for key in expected:
            torch.testing.assert_close(weights[key], expected[key], rtol=1e-6, atol=1e-6, msg=f"{key} of {file}")


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_reduced_classifier_runs(name, workplace, tmp_path):
    reduced_recipes.run_classifier(name, workplace / "pictures", tmp_path / name)
    assert (tmp_path / name / "model" / "model.safetensors").is_file()
