"""titok_hf.training.generator: from a tokenizer and pictures, or their codes, to a pipeline that makes pictures."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import List as ListFeature
from hypothesis import given
from hypothesis import strategies as st
from transformers import ConvNextConfig, ConvNextForImageClassification

from tiny_pipeline import tiny_tokenizer
from titok_hf import TiTokPipeline
from titok_hf.data.encoders import ImageEncoder
from titok_hf.data.pretokenize import PretokenizeSettings, pretokenize
from titok_hf.data.run_data import open_image_data
from titok_hf.evaluation.frechet import FrechetDistance
from titok_hf.evaluation.sweep import SettingMeter, setting_of
from titok_hf.scheduling_maskgit import MASK_SCHEDULES, MaskGitScheduler, mask_ratio
from titok_hf.training.configs import GeneratorRecipe
from titok_hf.training.generator import GeneratorTask
from titok_hf.training.recipes import RecipeError, load_recipe
from titok_hf.training.rng import StepRng
from titok_hf.training.start import make_accelerator, make_task
from training_runs import entries_of, equal, loop_of, recipe_of, series, trained, weights_in


def task_of(values: dict) -> GeneratorTask:
    recipe = recipe_of(values)
    return make_task(recipe, make_accelerator(recipe))


def write_codes(folder, codes: list[list[int]], labels: list[int] | None = None, views: int = 1) -> str:
    """A data set of codes as `pretokenize` writes it, its one split being `train`."""
    columns = {"codes": codes, "view": [row % views for row in range(len(codes))]}
    columns["source_index"] = [row // views for row in range(len(codes))]
    types = {"codes": ListFeature(Value("uint16")), "view": Value("int16"), "source_index": Value("int64")}
    if labels is not None:
        columns, types = columns | {"label": labels}, types | {"label": Value("int64")}
    (folder / "data").mkdir(parents=True)
    dataset = Dataset.from_dict(columns, features=Features(types))
    dataset.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return str(folder)


def without_images(values: dict, **codes) -> dict:
    """The same recipe over codes."""
    return {key: value for key, value in values.items() if key != "data"} | {"codes": codes}


@pytest.mark.parametrize("architecture", ["vit", "uvit"])
def test_a_run_ends_in_a_pipeline_with_the_recipe_s_sampler(architecture, generator_values):
    generator_values["model"]["architecture"] = architecture
    trained(generator_values, optimization={"num_steps": 2})
    pipe = TiTokPipeline.from_pretrained(f"{generator_values['output_dir']}/model")
    assert pipe.scheduler.config.num_inference_steps == 3
    assert pipe.scheduler.config.guidance_schedule == "linear"
    assert pipe.id2label[0] == "0_t_shirt_top"
    pipe.set_progress_bar_config(disable=True)
    assert pipe("1_trouser", num_images_per_class=2).images[1].size == (32, 32)
    # Pictures of 28 pixels were padded in training, and so they are in the pipeline.
    assert pipe.image_processor.do_enlarge is False


def test_training_reduces_the_loss_and_the_best_model_is_that_of_the_least(generator_values):
    generator_values["intervals"] |= {"log_every": 40, "evaluate_every": 20, "checkpoint_every": 40}
    with torch.no_grad():
        before = task_of(generator_values).evaluate()[0]
    trained(generator_values, optimization={"num_steps": 40, "ema_decay": 0.9})
    losses = series(generator_values, "test/loss")
    assert losses[1] < losses[0] < before["loss"] - 0.5
    assert series(generator_values, "test/accuracy")[1] > before["accuracy"]
    assert equal(weights_in(generator_values["output_dir"], "best_model"), weights_in(generator_values["output_dir"]))
    assert {"loss", "accuracy", "grad_norm", "learning_rate"} <= entries_of(generator_values)[-2].keys()


def test_codes_that_were_made_before_teach_the_same(generator_values, picture_folder, tmp_path):
    # Pictures that are padded or resized alike on both ways: those of the tokenizer's own size.
    settings, encoder = PretokenizeSettings(enlarge=False), ImageEncoder(generator_values["tokenizer"])
    for split in ("train", "test"):
        pretokenize(str(picture_folder), tmp_path / "codes", encoder, settings, split=split, workers=0)
    encoded = trained(generator_values)
    codes = without_images(generator_values, source=str(tmp_path / "codes"), test_split="test")
    read = trained(codes | {"output_dir": str(tmp_path / "read")})
    assert equal(read, encoded)
    assert series(codes | {"output_dir": str(tmp_path / "read")}, "test/loss") == series(generator_values, "test/loss")


def test_an_epoch_takes_one_view_of_each_image_and_the_next_one_others(generator_values, tmp_path):
    rows = [[image, view, 0, 0] for image in range(12) for view in range(3)]
    source = write_codes(tmp_path / "codes", rows, labels=[0, 1, 2] * 12, views=3)
    values = without_images(generator_values, source=source)
    values["intervals"]["num_test_images"] = 4
    task = task_of(values)
    batches = iter(task.loader)  # 8 images to train on, 4 a batch
    epochs = [torch.cat([next(batches)["codes"] for _ in range(2)]) for _ in range(6)]
    learnt = {tuple(sorted(epoch[:, 0].tolist())) for epoch in epochs}
    assert len(learnt) == 1
    assert len(set(*learnt)) == 8
    assert not set(*learnt) & set(task.test_codes[:, 0].tolist())
    assert len(task.test_codes) == 4
    views = np.stack([epoch[epoch[:, 0].argsort(), 1].numpy() for epoch in epochs])
    assert set(views.ravel()) == {0, 1, 2}
    assert (views != views[0]).any(axis=0).all()


@pytest.mark.parametrize(("dropout", "share"), [(1.0, 1.0), (0.0, 0.0)])
def test_labels_are_dropped_at_the_given_rate(dropout, share, generator_values):
    generator_values["loss"] = {"class_dropout": dropout}
    task = task_of(generator_values)
    seen = []
    task.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["class_labels"]), with_kwargs=True
    )
    batch = next(iter(task.loader))
    task.model_losses(task.model, batch, StepRng(0, 0, 0, 1, torch.device("cpu")), 0)
    assert (seen[0] == task.model.null_class_label).float().mean() == share
    if not share:
        assert torch.equal(seen[0], batch["label"])


def test_masks_are_the_step_s_and_those_of_tests_are_always_the_same(generator_values):
    task = task_of(generator_values)
    batch = next(iter(task.loader))
    task.model.eval()

    def loss_at(position: int) -> float:
        rng = StepRng(0, position, 0, 1, torch.device("cpu"))
        return task.model_losses(task.model, batch, rng, 0).scalars["loss"].item()

    assert loss_at(5) == loss_at(5) != loss_at(6)
    with torch.no_grad():
        assert task.evaluate()[0] == task.evaluate()[0]


@pytest.mark.parametrize("mask_schedule", [None, "arccos", "cosine", "linear", "root"])
def test_the_sampler_s_mask_schedule_is_that_of_training(mask_schedule, generator_values):
    """The default is the original's, arccos."""
    if mask_schedule is not None:
        generator_values["sampler"]["mask_schedule"] = mask_schedule
    task = task_of(generator_values)
    rng = StepRng(0, 3, 0, 1, torch.device("cpu"))
    shares = mask_ratio(rng.draw(64), mask_schedule or "arccos")
    seen = []
    task.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    batch = {"codes": torch.zeros(64, 4, dtype=torch.long), "label": torch.zeros(64, dtype=torch.long)}
    task.model_losses(task.model, batch, StepRng(0, 3, 0, 1, torch.device("cpu")), 0)
    num_masked = (seen[0] == task.model.mask_token_id).sum(dim=1)
    assert num_masked.tolist() == (4 * shares).round().clamp(min=1).tolist()
    assert len(num_masked.unique()) == 4


@given(
    progress=st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=1, max_size=4),
    length=st.integers(1, 40),
    mask_schedule=st.sampled_from(MASK_SCHEDULES),
)
def test_every_example_has_at_least_one_masked_token(progress, length, mask_schedule):
    pipeline = SimpleNamespace(scheduler=MaskGitScheduler(mask_token_id=9, mask_schedule=mask_schedule))
    task = SimpleNamespace(pipeline=pipeline)
    codes = torch.zeros(len(progress), length, dtype=torch.long)
    shares = GeneratorTask._mask_shares(task, torch.tensor(progress))
    mask = GeneratorTask._mask(task, codes, shares, torch.rand(codes.shape))
    assert mask.shape == codes.shape
    assert mask.any(dim=1).all()


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [({"quantizer": "kl"}, "is a KL model"), ({"image_size": 16}, "data.image_size is 32, but tokenizer .* takes 16")],
)
def test_a_tokenizer_that_does_not_fit_is_refused(tokenizer, message, generator_values, tmp_path):
    tiny_tokenizer(**tokenizer).save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(RecipeError, match=message):
        task_of(generator_values)


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        ([[0, 1, 2, 16]] * 12, [0] * 12, r"Row \d+ holds the code 16; this model's codes lie in \[0, 16\)"),
        ([[0, 1, 2]] * 12, [0] * 12, r"Row \d+ has 3 codes; this model has 4 latent tokens"),
        ([[0, 1, 2, 3]] * 12, None, "no column 'label'"),
        ([[0, 1, 2, 3]] * 4, [0] * 4, "has 4 examples, of which intervals.num_test_images=4"),
    ],
)
def test_codes_that_do_not_fit_are_refused(rows, labels, message, generator_values, tmp_path):
    values = without_images(generator_values, source=write_codes(tmp_path / "codes", rows, labels))
    values["intervals"]["num_test_images"] = 4
    with pytest.raises(RecipeError, match=message):
        task_of(values)


@pytest.mark.parametrize(
    ("group", "change", "message"),
    [
        ("model", {"hidden_sise": 16}, "model: .*hidden_sise"),
        ("sampler", {"num_inference_step": 3}, "sampler: .*num_inference_step"),
    ],
)
def test_fields_that_model_or_sampler_lack_are_refused(group, change, message, generator_values):
    generator_values[group] |= change
    with pytest.raises(RecipeError, match=message):
        task_of(generator_values)


def test_images_and_codes_at_once_are_refused(generator_values):
    with pytest.raises(RecipeError, match="exactly one of the two"):
        recipe_of(generator_values | {"codes": {"source": "codes"}})


def test_the_bundled_recipe_is_valid():
    assert load_recipe(GeneratorRecipe, "fashion_generator").model["architecture"] == "vit"


@pytest.fixture
def network(tmp_path) -> str:
    """A folder with a classifier of random weights, whose features are compared."""
    torch.manual_seed(0)
    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=2, num_labels=5)
    ConvNextForImageClassification(config).save_pretrained(tmp_path / "network")
    return str(tmp_path / "network")


def with_network(values: dict, network: str, **changes) -> dict:
    return values | {"intervals": values["intervals"] | {"frechet_network": network}} | changes


def test_generated_images_are_compared_with_test_images_or_with_a_file_of_them(generator_values, network, tmp_path):
    task = task_of(with_network(generator_values, network))
    images = decoded_test_images(generator_values)
    np.savez(tmp_path / "reference.npz", images.permute(0, 2, 3, 1).numpy())
    from_file = task_of(with_network(generator_values, network, frechet_reference=str(tmp_path / "reference.npz")))
    from_file.model.load_state_dict(task.model.eval().state_dict())
    from_file.model.eval()
    with torch.no_grad():
        measured, again = (each.evaluate()[0]["frechet_distance"] for each in (task, from_file))
    assert task.best == ("frechet_distance", False)
    distance = FrechetDistance(network)
    distance.update(images.float() / 255, real=True)
    expected = SettingMeter(task.pipeline, distance, 20)(setting_of(task.pipeline.scheduler)).distance
    assert measured == pytest.approx(expected, rel=1e-6) and again == pytest.approx(expected, rel=1e-6)
    assert expected > 0


def decoded_test_images(values: dict) -> torch.Tensor:
    data = recipe_of(values).data
    return open_image_data(data, num_test=20, batch_size=4, with_labels=True).test


def test_two_processes_share_the_generated_images(generator_values, network):
    whole = task_of(with_network(generator_values, network)).meter
    shares = [SettingMeter(whole.pipeline, whole.distance, 20, rank=rank, world_size=2) for rank in range(2)]
    assert [seed for pair in zip(*(share.seeds for share in shares), strict=True) for seed in pair] == whole.seeds
    assert [label for pair in zip(*(share.labels for share in shares), strict=True) for label in pair] == whole.labels


def test_measuring_generated_images_leaves_the_run_as_it_is(generator_values, network, tmp_path):
    changes = {"optimization": {"num_steps": 4}, "intervals": {"evaluate_every": 1}}
    plain = trained(generator_values, **changes)
    values = with_network(generator_values, network, output_dir=str(tmp_path / "measured"))
    assert equal(trained(values, **changes), plain)
    distances = series(values, "test/frechet_distance")
    assert len(distances) == 4 and all(np.isfinite(distances))
    assert loop_of(values, **changes).progress.best_by == "frechet_distance"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: {"frechet_reference": f"{folder}/nowhere.npz"}, "frechet_reference: .*nowhere.npz"),
        (lambda folder: {"frechet_reference": small_images(folder)}, "frechet_reference: .*8 x 8"),
        (lambda folder: {"data": None, "codes": some_codes(folder)}, "a recipe with codes has no images"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused(make, message, generator_values, network, tmp_path):
    with pytest.raises(RecipeError, match=message):
        task_of(with_network(generator_values, network, **make(tmp_path)))


def small_images(folder) -> str:
    np.savez(folder / "small.npz", np.zeros((4, 8, 8, 3), np.uint8))
    return str(folder / "small.npz")


def some_codes(folder) -> dict:
    return {"source": write_codes(folder / "some_codes", [[0, 1, 2, 3]] * 8, [0, 1] * 4), "test_split": "train"}
