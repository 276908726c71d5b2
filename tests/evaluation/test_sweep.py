"""titok_hf.evaluation.sweep: every setting once, whatever is killed in between, and the best one kept."""

import json

import pytest
import torch
from torch import nn

from tiny_pipeline import tiny_pipeline
from titok_hf.evaluation.frechet import FrechetDistance
from titok_hf.evaluation.sweep import (
    AXES,
    Measured,
    SettingMeter,
    SweepRecord,
    read_interval,
    setting_of,
    sweep,
    write_setting,
    write_value,
)
from titok_hf.pipeline_titok import TiTokPipeline

CONVENTION = {"network": "means", "num_images": 6}


class Means(nn.Module):
    """A network whose features are the mean colours of the two halves of an image."""

    def forward(self, images):
        return torch.cat([half.float().mean(dim=(2, 3)) for half in images.chunk(2, dim=3)], dim=1)


@pytest.fixture
def distance():
    distance = FrechetDistance(Means())
    distance.update(torch.rand(20, 3, 32, 32), real=True)
    return distance


def bowl(setting):
    """A distance with its minimum at scale 3 and temperature 2, in place of images."""
    distance = (setting["guidance_scale"] - 3) ** 2 + (setting["temperature"] - 2) ** 2
    return Measured(setting, distance, 10.0)


def counted(measure):
    calls = []

    def counting(setting):
        calls.append(setting)
        return measure(setting)

    return counting, calls


def test_a_grid_measures_every_combination_and_finds_the_best(tmp_path):
    own = setting_of(tiny_pipeline().scheduler)
    measure, calls = counted(bowl)
    axes = {"guidance_scale": [1.0, 3.0, 5.0], "temperature": [2.0, 4.0]}
    best = sweep(own, axes, measure, SweepRecord(tmp_path, CONVENTION))
    assert len(calls) == 6 and len({(each["guidance_scale"], each["temperature"]) for each in calls}) == 6
    assert (best.setting["guidance_scale"], best.setting["temperature"], best.distance) == (3.0, 2.0, 0.0)
    assert best.setting | {"guidance_scale": 0, "temperature": 0} == own | {"guidance_scale": 0, "temperature": 0}


def test_a_climb_reaches_the_best_setting_in_fewer_measurements(tmp_path):
    own = setting_of(tiny_pipeline().scheduler) | {"guidance_scale": 0.0, "temperature": 4.0}
    measure, calls = counted(bowl)
    axes = {"guidance_scale": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "temperature": [0.0, 1.0, 2.0, 3.0, 4.0]}
    best = sweep(own, axes, measure, SweepRecord(tmp_path, CONVENTION), search="hill-climb")
    assert (best.setting["guidance_scale"], best.setting["temperature"]) == (3.0, 2.0)
    assert len(calls) < 40 * 2 / 3
    assert (calls[0]["guidance_scale"], calls[0]["temperature"]) == (0.0, 4.0), "it starts at the checkpoint's own"


@pytest.mark.parametrize("search", ["grid", "hill-climb"])
@pytest.mark.parametrize("killed_after", [0, 1, 3])
def test_a_killed_sweep_goes_on_with_equal_rows(search, killed_after, tmp_path):
    own = setting_of(tiny_pipeline().scheduler)
    axes = {
        "guidance_scale": [1.0, 2.0, 3.0],
        "temperature": [1.0, 2.0, 3.0],
        "guidance_interval": [None, [0.25, 0.5]],
    }
    sweep(own, axes, bowl, SweepRecord(tmp_path / "whole", CONVENTION), search)

    def killed(setting):
        if len(calls) > killed_after:
            raise KeyboardInterrupt
        return bowl(setting)

    measure, calls = counted(killed)
    with pytest.raises(KeyboardInterrupt):
        sweep(own, axes, measure, SweepRecord(tmp_path / "cut", CONVENTION), search)
    measure, calls = counted(bowl)
    sweep(own, axes, measure, SweepRecord(tmp_path / "cut", CONVENTION), search)
    table = (tmp_path / "whole" / "sweep.csv").read_bytes()
    assert (tmp_path / "cut" / "sweep.csv").read_bytes() == table
    assert len(calls) == table.count(b"\n") - 1 - killed_after


def test_a_sweep_that_measures_otherwise_is_not_mixed_with_this_one(tmp_path):
    SweepRecord(tmp_path, CONVENTION)
    with pytest.raises(ValueError, match="num_images 6, and this one has 7"):
        SweepRecord(tmp_path, CONVENTION | {"num_images": 7})
    with pytest.raises(ValueError, match="seed None, and this one has 1"):
        SweepRecord(tmp_path, CONVENTION | {"seed": 1})


def test_a_table_that_is_none_is_refused(tmp_path):
    SweepRecord(tmp_path, CONVENTION)
    (tmp_path / "sweep.csv").write_text("guidance_scale,distance\n3.0,nothing\n")
    with pytest.raises(ValueError, match="Row 1 of .*sweep.csv"):
        SweepRecord(tmp_path, CONVENTION)


@pytest.mark.parametrize(
    ("axes", "message"),
    [({}, "No axis"), ({"guidance_scale": []}, "without|cannot be swept"), ({"colour": [1]}, "'colour'")],
)
def test_axes_that_are_none_are_refused(axes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        sweep(setting_of(tiny_pipeline().scheduler), axes, bowl, SweepRecord(tmp_path, CONVENTION))


def test_values_survive_the_table():
    for name, value in setting_of(tiny_pipeline().scheduler).items():
        assert AXES[name](write_value(value)) == value
    assert read_interval(write_value([0.25, 0.75])) == [0.25, 0.75] and read_interval("all") is None


@pytest.mark.parametrize("text", ["0.2", "0.8:0.2", "-0.1:0.5", "0.5:2", "nan:0.5", "a:b", "None"])
def test_a_wrong_interval_is_refused_in_the_words_of_the_option(text):
    with pytest.raises(ValueError, match='"0.2:0.8", or "all"'):
        read_interval(text)


def test_measured_images_do_not_depend_on_the_batch_and_the_pipeline_keeps_its_scheduler(distance):
    pipeline = tiny_pipeline()
    scheduler = pipeline.scheduler
    setting = setting_of(scheduler)
    first = SettingMeter(pipeline, distance, 6, batch_size=6)(setting)
    again = SettingMeter(pipeline, distance, 6, batch_size=1)(setting)
    assert again.distance == pytest.approx(first.distance, rel=1e-6)
    assert pipeline.scheduler is scheduler
    other = SettingMeter(pipeline, distance, 6)(setting | {"temperature": 9.0})
    assert other.distance != pytest.approx(first.distance, rel=1e-3)
    assert SettingMeter(pipeline, distance, 6, seed=1)(setting).distance != pytest.approx(first.distance, rel=1e-3)


def test_a_measured_setting_is_the_distance_of_the_pipeline_s_own_images(distance):
    pipeline = tiny_pipeline()
    setting = setting_of(pipeline.scheduler) | {"num_inference_steps": 2, "guidance_scale": 1.5}
    meter = SettingMeter(pipeline, distance, 6)
    measured = meter(setting)
    generators = [torch.Generator().manual_seed(seed) for seed in meter.seeds]
    images = pipeline(
        [0, 1, 2, 0, 1, 2], generator=generators, num_inference_steps=2, guidance_scale=1.5, output_type="pt"
    ).images
    distance.reset(real=False)
    distance.update(images, real=False)
    assert measured.distance == pytest.approx(distance.compute(), rel=1e-6)


def test_a_setting_becomes_the_default_of_a_folder(tmp_path):
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path)
    before = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    setting = setting_of(pipeline.scheduler) | {"guidance_scale": 1.25, "guidance_interval": [0.25, 0.75]}
    write_setting(tmp_path, setting)
    assert setting_of(TiTokPipeline.from_pretrained(tmp_path).scheduler) == setting
    after = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    assert {name for name in after if after[name] != before.get(name)} == {"guidance_scale", "guidance_interval"}
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_setting(tmp_path / "none", setting)


def test_forgetting_made_images_keeps_the_real_ones(distance):
    made = torch.rand(10, 3, 32, 32)
    distance.update(made, real=False)
    first = distance.compute()
    distance.reset(real=False)
    distance.update(made, real=False)
    assert distance.compute() == first
    distance.reset()
    with pytest.raises(RuntimeError):
        distance.compute()
