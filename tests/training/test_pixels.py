"""titok_hf.training.pixels: the sum of the losses, whose turn it is, and what an evaluation measures."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import ConvNextConfig, ConvNextForImageClassification, ConvNextImageProcessorPil

from titok_hf.training.recipes import RecipeError
from titok_hf.training.rng import StepRng
from titok_hf.training.start import make_accelerator, make_task
from training_runs import equal, loop_of, recipe_of, series, trained

LEARNING = {"num_steps": 40, "ema_decay": 0.9}
AT_THE_END = {"log_every": 40, "evaluate_every": 40, "checkpoint_every": 40}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> str:
    """A folder with a classifier of random weights."""
    torch.manual_seed(0)
    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=2, num_labels=5)
    folder = tmp_path_factory.mktemp("classifier")
    ConvNextForImageClassification(config).save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": 32}).save_pretrained(folder)
    return str(folder)


def task_of(values):
    recipe = recipe_of(values)
    return make_task(recipe, make_accelerator(recipe))


def losses_of(task, step: int, position: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """What one batch gives, each module's scalars by its name."""
    batch = {"pixels": task.test_images[:4]}
    rng = StepRng(0, position, 0, 1, torch.device("cpu"))
    losses = task.model_losses(task.model.train(), batch, rng, step).detached()
    if not task.discriminator_learns(step):
        return {"model": losses.scalars}
    scalars = task.discriminator_losses(task.discriminator, losses.images, losses.reconstructions)
    return {"model": losses.scalars, "discriminator": {key: value.detach() for key, value in scalars.items()}}


def test_the_loss_is_the_weighted_sum_of_its_terms(values_of, classifier):
    values = values_of("gan")
    values["loss"] |= {"reconstruction_weight": 3.0, "quantizer_weight": 0.5, "perceptual": {"model": classifier}}
    scalars = losses_of(task_of(values), step=3)["model"]
    terms = {"reconstruction_loss", "quantizer_loss", "perceptual_loss", "adversarial_loss"}
    assert scalars.keys() == terms | {"loss"}
    expected = 3 * scalars["reconstruction_loss"] + 0.5 * scalars["quantizer_loss"]
    expected = expected + scalars["perceptual_loss"] + 0.1 * scalars["adversarial_loss"]
    assert scalars["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert scalars["perceptual_loss"] > 0


def test_the_discriminator_has_its_turn_from_its_first_step_on(values_of):
    task = task_of(values_of("gan"))  # start_step: 3
    before, after = losses_of(task, step=2), losses_of(task, step=3)
    assert before.keys() == {"model"}
    assert "adversarial_loss" not in before["model"]
    assert after.keys() == {"model", "discriminator"}
    assert after["discriminator"].keys() == {"loss", "hinge_loss", "lecam_loss", "logits_real", "logits_fake"}


def test_the_discriminator_s_schedule_begins_with_it(values_of):
    values = values_of("gan")
    values["loss"]["adversarial"]["start_step"] = 4
    values["optimization"] |= {"num_steps": 10, "end_learning_rate": 0.0}
    values["intervals"] |= {"log_every": 1, "evaluate_every": 10, "checkpoint_every": 10}
    loop = loop_of(values)
    weights = [{name: value.clone() for name, value in loop.task.discriminator.state_dict().items()}]
    finish_step = loop.task.after_step

    def finish_and_remember() -> None:
        finish_step()
        weights.append({name: value.clone() for name, value in loop.task.discriminator.state_dict().items()})

    loop.task.after_step = finish_and_remember
    loop.run()
    moved = [not equal(first, second) for first, second in zip(weights, weights[1:], strict=False)]
    # Warm-up is two steps from 0 here, for the discriminator too: its first step is one of size 0.
    assert moved == [False] * 5 + [True] * 5
    assert len(series(values, "discriminator/loss")) == 6
    rates = series(values, "discriminator/learning_rate")
    assert rates[:6] == pytest.approx([0, 0, 0, 0, 5e-4, 1e-3])
    assert rates[9] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["tokenizer", "kl", "vqgan"])
def test_training_reduces_the_error(name, values_of, tmp_path):
    values = values_of(name)
    values["intervals"] |= AT_THE_END
    task = task_of(values)
    with torch.no_grad():
        before = task.evaluate()[0]
    trained(values, optimization=LEARNING)
    assert series(values, "test/psnr")[-1] > before["psnr"] + 2


def test_a_codebook_is_measured_and_a_gaussian_has_none(values_of, classifier):
    values = values_of("tokenizer")
    values["intervals"]["frechet_network"] = classifier
    with torch.no_grad():
        measures, picture = task_of(values).evaluate()
    assert measures.keys() == {"psnr", "ssim", "frechet_distance", "codes_used", "codebook_perplexity"}
    assert 1 <= measures["codebook_perplexity"] <= measures["codes_used"] <= 16
    assert picture.size[0] > 16 * 32
    with torch.no_grad():
        measures, _ = task_of(values_of("kl")).evaluate()
    assert measures.keys() == {"psnr", "ssim"}


@pytest.mark.parametrize("kind", ["gan", "stage1"])
def test_the_best_model_is_that_of_the_least_frechet_distance_where_a_network_is_named(kind, values_of, classifier):
    values = values_of(kind)
    assert task_of(values).best == ("psnr", True)
    values["intervals"]["frechet_network"] = classifier
    loop = loop_of(values, intervals={"evaluate_every": 1}, optimization={"num_steps": 3})
    script = iter([(1.0, 5.0), (2.0, 4.0), (3.0, 6.0)])

    def evaluate():
        psnr, distance = next(script)
        return {"psnr": psnr, "frechet_distance": distance}, Image.new("RGB", (1, 1))

    loop.task.evaluate = evaluate
    loop.run()
    assert loop.progress.best == 4.0
    # A resumed run that measures something else does not compare the two.
    values["intervals"]["frechet_network"] = None
    resumed = loop_of(values, optimization={"num_steps": 4})
    resumed.run()
    assert resumed.progress.best == series(values, "test/psnr")[-1]


def test_tokens_of_a_gaussian_are_sampled_in_tests_whatever_the_batch_and_the_process(values_of):
    task = task_of(values_of("kl"))
    latents, whole = [], []
    task.model.eval()
    task.model.quantizer.register_forward_hook(lambda module, inputs, output: latents.append(output))
    with torch.no_grad():
        task.evaluate()
        assert not torch.equal(latents[0].latents, latents[0].posterior_mean)
        whole = latents[0].latents
        latents.clear()
        for process in range(2):
            task.accelerator = SimpleNamespace(process_index=process, num_processes=2, device=torch.device("cpu"))
            for numbers in task.own_batches():
                task.reconstruct_numbers(numbers)
    shares = torch.stack([output.latents for output in latents], dim=1).flatten(0, 1)
    torch.testing.assert_close(shares, whole)


def test_noise_is_the_step_s_and_tests_repeat_theirs(values_of):
    task = task_of(values_of("kl"))
    latents = []
    task.model.quantizer.register_forward_hook(lambda module, inputs, output: latents.append(output.latents))
    for position in (7, 7, 8):
        losses_of(task, 0, position)
    assert torch.equal(latents[0], latents[1])
    assert not torch.equal(latents[0], latents[2])
    with torch.no_grad():
        task.model.eval()
        assert task.evaluate()[0] == task.evaluate()[0]


def test_other_quantisers_train_too(tokenizer_values):
    tokenizer_values["model"]["codebook_l2_norm"] = False
    tokenizer_values["data"] |= {"horizontal_flip": True, "random_crop": True, "resize_mode": "resize"}
    assert trained(tokenizer_values, optimization={"num_steps": 2})


def test_a_frechet_network_that_is_not_there_is_refused(tokenizer_values):
    tokenizer_values["intervals"]["frechet_network"] = "/nowhere/at/all"
    with pytest.raises(RecipeError, match="intervals.frechet_network: .*/nowhere/at/all"):
        task_of(tokenizer_values)
