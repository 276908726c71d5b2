"""Optimiser, schedule and averaged weights are the original's."""

import math

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import nn

from golden_training import case, original_name
from titok_hf import MaskGitTransformer1DModel, TiTokConfig, TiTokModel
from titok_hf.original import generator_adapter, titok_adapter
from titok_hf.training.configs import OptimizationConfig
from titok_hf.training.discriminator import Discriminator
from titok_hf.training.loop import discriminator_optimization
from titok_hf.training.optimization import make_optimizer, make_schedule, parameter_groups
from titok_hf.training.start import load_training_recipe

GROUPS = case("optimizer_groups")
AVERAGE = case("ema")


@pytest.mark.parametrize("wanted", case("lr_schedule"), ids=lambda wanted: wanted["name"])
def test_learning_rates_equal_the_original(wanted):
    # The original's scheduler advances once a process and step, ours once a step.
    num_processes = 8 if wanted["name"].endswith("_8_processes") else 1
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=wanted["base_lr"])
    schedule = make_schedule(
        optimizer,
        num_steps=wanted["num_training_steps"] // num_processes,
        warmup_steps=wanted["num_warmup_steps"] // num_processes,
        # The original's other schedule is a cosine between equal rates here.
        end_learning_rate=wanted["base_lr"] if wanted["scheduler"] == "constant" else wanted["end_lr"],
    )
    (share_of_peak,) = schedule.lr_lambdas
    for step, learning_rate in wanted["lr_by_scheduler_step"].items():
        ours = wanted["base_lr"] * share_of_peak(int(step) // num_processes)
        assert ours == pytest.approx(learning_rate, rel=1e-6), step


@pytest.mark.parametrize("name", ["titok_bl64_vq8k", "titok_l32_stage2"])
def test_the_discriminator_s_rates_are_the_original_s_on_eight_processes(name):
    """The original multiplies length and warm-up by the processes, not the start, and advances as often a step."""
    recipe = load_training_recipe(name)
    optimization, adversarial = recipe.optimization, recipe.loss.adversarial
    ours = discriminator_optimization(optimization, adversarial)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=ours.learning_rate)
    schedule = make_schedule(optimizer, ours.num_steps, ours.warmup_steps, ours.end_learning_rate)
    length, warmup = 8 * optimization.num_steps - adversarial.start_step, 8 * optimization.warmup_steps
    last = optimization.num_steps - adversarial.start_step
    for step in (1, last // 3, last):
        progress = (8 * step - warmup) / (length - warmup)
        cosine = 1e-5 + 9e-5 * (1 + math.cos(math.pi * progress)) / 2
        wanted = 1e-4 * 8 * step / warmup if progress < 0 else cosine
        assert 1e-4 * schedule.lr_lambdas[0](step) == pytest.approx(wanted, rel=1e-6)
    if name == "titok_bl64_vq8k":
        assert cosine == pytest.approx(2.68e-5, rel=1e-3)


def tokenizer(variant, **changes):
    with torch.device("meta"):
        model = TiTokModel(TiTokConfig.from_variant(variant, **changes))
    return model, titok_adapter(model.config, model.state_dict())


def generator(variant):
    with torch.device("meta"):
        model = MaskGitTransformer1DModel.from_variant(variant)
    return model, generator_adapter(model.config, model.state_dict())


MODELS = {
    "l32_stage2": lambda: tokenizer("l32"),
    "s128_stage1": lambda: tokenizer("s128", pixel_decoder=None),
    "b64_generator": lambda: generator("b64"),
    "l32_generator": lambda: generator("l32"),
}


@pytest.mark.parametrize("name", GROUPS)
def test_decayed_and_frozen_parameters_are_the_original_s(name):
    model, adapter = MODELS[name]()
    wanted = GROUPS[name]
    if wanted["frozen"]:  # stage 2
        model.encoder.requires_grad_(False)
        model.quantizer.requires_grad_(False)

    def originals(parameters):
        names = {parameter: name for name, parameter in model.named_parameters()}
        return sorted(name for parameter in parameters for name in adapter.originals[names[parameter]].names)

    decay = wanted["groups"][1]["weight_decay"]
    for ours, original in zip(parameter_groups(model, decay), reversed(wanted["groups"]), strict=True):
        assert originals(ours["params"]) == sorted(original["names"])
        assert sum(parameter.numel() for parameter in ours["params"]) == original["num_parameters"]
        assert ours["weight_decay"] == original["weight_decay"]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    assert originals(frozen) == sorted(wanted["frozen"])


def test_the_discriminator_s_optimizer_is_the_original_s():
    discriminator = Discriminator()
    wanted = GROUPS["l32_stage2"]["discriminator_groups"][::-1]
    optimization = OptimizationConfig(
        num_steps=1,
        batch_size=1,
        learning_rate=wanted[0]["lr"],
        betas=tuple(wanted[0]["betas"]),
        weight_decay=wanted[0]["weight_decay"],
    )
    names = {parameter: original_name(name) for name, parameter in discriminator.named_parameters()}
    for ours, original in zip(make_optimizer(discriminator, optimization).param_groups, wanted, strict=True):
        assert sorted(f"discriminator.{names[parameter]}" for parameter in ours["params"]) == sorted(original["names"])
        for figure in ("lr", "eps", "weight_decay"):
            assert ours[figure] == original[figure]
        assert list(ours["betas"]) == original["betas"]


def test_decay_of_the_average_equals_the_original_at_every_step():
    average = EMAModel([nn.Parameter(torch.zeros(1))], decay=AVERAGE["decay"])
    for step, decay in AVERAGE["decay_by_step"].items():
        assert average.get_decay(int(step)) == pytest.approx(decay, rel=1e-12), step


def test_averaged_weights_equal_the_original_and_go_on_after_a_resume():
    trained = nn.Parameter(torch.zeros(2))
    frozen = nn.Parameter(torch.zeros(1), requires_grad=False)
    average = EMAModel([trained, frozen], decay=AVERAGE["decay"], foreach=True)
    for step in AVERAGE["trace"]:
        trained.data, frozen.data = torch.tensor(step["param"]), torch.tensor(step["frozen"])
        average.step([trained, frozen])
        assert average.shadow_params[0].tolist() == pytest.approx(step["shadow"], rel=1e-6)
        assert average.shadow_params[1].tolist() == step["shadow_frozen"]

    later = AVERAGE["after_set_step"]
    resumed = EMAModel([trained, frozen], decay=AVERAGE["decay"], foreach=True)
    resumed.load_state_dict(average.state_dict() | {"optimization_step": later["set_step"]})
    trained.data = torch.tensor(later["param"])
    resumed.step([trained, frozen])
    assert resumed.cur_decay_value == later["decay"]
    assert resumed.shadow_params[0].tolist() == pytest.approx(later["shadow"], rel=1e-6)
