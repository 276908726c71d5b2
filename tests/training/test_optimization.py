"""titok_hf.training.optimization: short schedules, frozen weights. Figures: test_parity_optimization."""

import pytest
import torch
from torch import nn

from titok_hf.training.configs import OptimizationConfig
from titok_hf.training.optimization import make_optimizer, make_schedule

RECIPE = OptimizationConfig(num_steps=12, batch_size=1, learning_rate=1e-2, betas=(0.9, 0.96), weight_decay=0.03)


def test_learning_rate_warms_up_and_falls_along_a_half_cosine():
    optimizer = make_optimizer(nn.Linear(2, 2), RECIPE)
    schedule = make_schedule(optimizer, num_steps=12, warmup_steps=2, end_learning_rate=1e-3)
    rates = []
    for _ in range(13):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:3] == pytest.approx([0, 5e-3, 1e-2])
    assert rates[7] == pytest.approx((1e-2 + 1e-3) / 2)
    assert rates[12] == pytest.approx(1e-3)


def test_a_schedule_may_be_all_warm_up_or_have_none():
    module = nn.Linear(2, 2)
    warming = make_schedule(make_optimizer(module, RECIPE), num_steps=4, warmup_steps=4, end_learning_rate=0.0)
    falling = make_schedule(make_optimizer(module, RECIPE), num_steps=4, warmup_steps=0, end_learning_rate=0.0)
    assert [warming.lr_lambdas[0](step) for step in range(5)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert [falling.lr_lambdas[0](step) for step in (0, 2, 4)] == pytest.approx([1, 0.5, 0])


def test_frozen_parameters_are_in_no_group_and_stay():
    module = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    module[1].requires_grad_(False)
    optimizer = make_optimizer(module, RECIPE)
    decayed, kept = optimizer.param_groups
    assert decayed["params"] == [module[0].weight] and decayed["weight_decay"] == 0.03
    assert kept["params"] == [module[0].bias] and kept["weight_decay"] == 0
    assert decayed["betas"] == (0.9, 0.96) and decayed["eps"] == 1e-8
    module(torch.rand(3, 2)).square().sum().backward()
    optimizer.step()
    assert torch.equal(module[1].weight, torch.ones(2))
