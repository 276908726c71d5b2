"""The samplers: their laws on a joint distribution of two tokens, the limit cases, and what no sampler does."""

import math
from collections import defaultdict
from itertools import product

import pytest
import torch

from titok_hf.samplers import REMASK_RULES, SAMPLERS
from titok_hf.scheduling_maskgit import MaskGitScheduler, mask_ratio

NUM_DRAWS = 100_000
# Seeds are fixed: a correct sampler fails one seed in a thousand, and a new seed would show it. The wrong laws below
# differ so much from the right ones that 100,000 draws reject them at any threshold of this size.
P_VALUE = 1e-3
MASK = 3
JOINT = torch.tensor([[0.30, 0.05, 0.02], [0.04, 0.20, 0.08], [0.01, 0.10, 0.20]])
TEMPERATURE = 1.6


def conditionals(codes):
    """log p of each of two tokens given the other, or its marginal where the other is masked: (batch, 2, 3)."""
    with_marginal = [torch.cat([table, table.sum(dim=0, keepdim=True)]) for table in (JOINT.T, JOINT)]
    tables = torch.stack([table / table.sum(dim=1, keepdim=True) for table in with_marginal])
    return torch.stack([tables[0][codes[:, 1]], tables[1][codes[:, 0]]], dim=1).log()


def p_of(position, known, code):
    """As `conditionals`, one number: p of `code` at a position if the other token is `known`."""
    codes = torch.full((1, 2), MASK)
    codes[0, 1 - position] = known
    return conditionals(codes)[0, position, code].exp().item()


def draws(scheduler, steps, num_images=NUM_DRAWS, seed=0):
    """The codes of many images, sampled with the two-token model."""
    scheduler.set_timesteps(steps)
    codes = torch.full((num_images, 2), MASK)
    generator = torch.Generator().manual_seed(seed)
    for timestep in scheduler.timesteps:
        codes = scheduler.step(conditionals(codes), timestep, codes, generator).prev_sample
    return codes


def fits(codes, law):
    """p of a chi-square test of codes (n, 2) against a law (3, 3)."""
    counts = torch.bincount(codes[:, 0] * 3 + codes[:, 1], minlength=9).double()
    law = law.double().flatten()
    possible = law > 1e-12
    assert counts[~possible].sum() == 0
    if possible.sum() == 1:
        return 1.0
    expected = law[possible] / law[possible].sum() * counts.sum()
    statistic = ((counts[possible] - expected) ** 2 / expected).sum()
    return torch.special.gammaincc((possible.sum().double() - 1) / 2, statistic / 2).item()


def independent():
    """Both tokens drawn at once."""
    return JOINT.sum(dim=1)[:, None] * JOINT.sum(dim=0)[None]


def one_then_likeliest(first):
    """
    The law of a sampler that draws one token, and in a last step without noise the likeliest other one.

    Args:
        first: probability that the token at a position is drawn first and has a code: dict of (position, code).
    """
    law = torch.zeros(3, 3)
    for (position, code), probability in first.items():
        other = max(range(3), key=lambda other: p_of(1 - position, code, other))
        law[(code, other) if position == 0 else (other, code)] += probability
    return law


@pytest.mark.parametrize("token_order", [None, [0, 1], [1, 0]])
def test_one_token_a_step_in_any_order_gives_the_joint_distribution(token_order):
    codes = draws(MaskGitScheduler(MASK, sampler="ordered", token_order=token_order), steps=2)
    assert fits(codes, JOINT) > P_VALUE and fits(codes, independent()) < 1e-12


def test_all_tokens_at_once_are_independent():
    codes = draws(MaskGitScheduler(MASK, sampler="ordered"), steps=1)
    assert fits(codes, independent()) > P_VALUE and fits(codes, JOINT) < 1e-12


def test_the_softmax_temperature_sharpens_what_is_drawn():
    codes = draws(MaskGitScheduler(MASK, sampler="ordered", softmax_temperature=0.5), steps=1)
    sharp = [marginal**2 / (marginal**2).sum() for marginal in (JOINT.sum(dim=1), JOINT.sum(dim=0))]
    assert fits(codes, sharp[0][:, None] * sharp[1][None]) > P_VALUE and fits(codes, independent()) < 1e-12


@pytest.mark.parametrize("between", [-1e-4, 1e-4])
def test_the_entropy_bound_decides_what_is_drawn_together(between):
    marginals = (JOINT.sum(dim=1), JOINT.sum(dim=0))
    smaller = min(-(p * p.log()).sum().item() for p in marginals)  # the sum of both entropies less the larger one
    codes = draws(MaskGitScheduler(MASK, sampler="entropy-bounded", entropy_bound=smaller + between), steps=2)
    together = between > 0
    assert fits(codes, independent() if together else JOINT) > P_VALUE
    assert fits(codes, JOINT if together else independent()) < 1e-12


def test_the_moment_sampler_draws_position_and_code_by_moments():
    codes = draws(MaskGitScheduler(MASK, sampler="moment", temperature=TEMPERATURE), steps=2)
    power = 1 + 1 / (TEMPERATURE / 2)  # the temperature of the first of two steps
    marginals = [marginal**power for marginal in (JOINT.sum(dim=1), JOINT.sum(dim=0))]
    total = sum(moments.sum() for moments in marginals)
    first = {(i, x): (marginals[i][x] / total).item() for i in range(2) for x in range(3)}
    assert fits(codes, one_then_likeliest(first)) > P_VALUE
    plain = {(i, x): 0.5 * p_of(i, MASK, x) for i in range(2) for x in range(3)}
    assert fits(codes, one_then_likeliest(plain)) < 1e-12


def test_the_confidence_sampler_keeps_the_more_confident_code():
    codes = draws(MaskGitScheduler(MASK, temperature=TEMPERATURE), steps=2)
    noise = TEMPERATURE / 2
    drawn = [torch.softmax(marginal.log() / noise, dim=0) for marginal in (JOINT.sum(dim=1), JOINT.sum(dim=0))]
    first = defaultdict(float)
    for x, y in product(range(3), range(3)):
        probability = (drawn[0][x] * drawn[1][y]).item()
        # The difference of two Gumbel numbers has the logistic distribution.
        keeps_first = 1 / (1 + (p_of(1, MASK, y) / p_of(0, MASK, x)) ** (1 / noise))
        first[0, x] += probability * keeps_first
        first[1, y] += probability * (1 - keeps_first)
    assert fits(codes, one_then_likeliest(first)) > P_VALUE
    plain = {(i, x): 0.5 * p_of(i, MASK, x) for i in range(2) for x in range(3)}
    assert fits(codes, one_then_likeliest(plain)) < 1e-12


def sigmas(rule, eta, state, known_before, known_after, looping):
    """sigma of each of two tokens; a state has a pair (code, confidence) for each, None for a mask."""
    largest = min(1, (1 - known_after) / known_before) if known_before else 1
    if rule == "confidence":
        num_masked = state.count(None)
        bounded = min(largest, num_masked * (1 - known_after) / (1 - known_before))
        weights = [0 if token is None else math.exp(-token[1]) for token in state]
        return [bounded * weight / sum(weights) if sum(weights) else 0 for weight in weights]
    sigma = {"cap": min(eta, largest), "rescale": eta * largest, "loop": min(eta, largest) if looping else 0}[rule]
    return [sigma, sigma]


def law_of_remdm(rule, eta, known, looping):
    """The exact law of ReMDM on the two tokens, by following every path; `known` is a_t before each step, and 1."""
    states = {(None, None): 1.0}
    for step, (before, after) in enumerate(zip(known, known[1:], strict=False)):
        following = defaultdict(float)
        for state, probability in states.items():
            sigma = sigmas(rule, eta, state, before, after, looping[step])
            of_mask = sigma[0]
            if rule == "confidence":
                of_mask = sum(sigma) * (1 - before) / (before * state.count(None)) if before and None in state else 0
            stays = (1 - after - of_mask * before) / (1 - before) if after < 1 else 0.0
            choices = []
            for position in range(2):
                if state[position] is not None:
                    choices.append([(None, sigma[position]), (state[position], 1 - sigma[position])])
                    continue
                other = state[1 - position]
                p = [p_of(position, MASK if other is None else other[0], code) for code in range(3)]
                drawn = [((code, p[code] if rule == "confidence" else 0), (1 - stays) * p[code]) for code in range(3)]
                choices.append([(None, stays), *drawn])
            for (first, p_first), (second, p_second) in product(*choices):
                if p_first * p_second > 0:
                    following[first, second] += probability * p_first * p_second
        states = following
    law = torch.zeros(3, 3)
    for (first, second), probability in states.items():
        law[first[0], second[0]] += probability
    return law


@pytest.mark.parametrize(
    ("rule", "eta"), [("cap", 0.0), ("cap", 0.4), ("rescale", 0.7), ("confidence", 0.0), ("loop", 0.4)]
)
def test_remasking_follows_its_formula(rule, eta):
    steps, loop = 5, {"loop_interval": [0.2, 0.8], "loop_known_share": 0.6}
    scheduler = MaskGitScheduler(MASK, "linear", sampler="remdm", remask=rule, eta=eta, **loop)
    codes = draws(scheduler, steps)
    linear, in_loop = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 0.6, 0.6, 0.6, 0.6, 1.0]
    looping = [False, True, True, True, False]
    law = law_of_remdm(rule, eta, in_loop if rule == "loop" else linear, looping)
    assert law.sum() == pytest.approx(1, abs=1e-6)
    assert fits(codes, law) > P_VALUE
    if rule == "cap" and eta:
        assert fits(codes, law_of_remdm("cap", 0.0, linear, looping)) < 1e-12


def sample(scheduler, codes, generator=None):
    """All states of a run on random logits, the first included."""
    logits = 3 * torch.randn(*codes.shape, 16, generator=torch.Generator().manual_seed(5))
    states = [codes]
    for timestep in scheduler.timesteps:
        states.append(scheduler.step(logits[: len(codes)], timestep, states[-1], generator=generator).prev_sample)
    return states


@pytest.mark.parametrize("mask_schedule", ["arccos", "linear"])
@pytest.mark.parametrize(
    ("rule", "eta"), [*product(("cap", "rescale", "loop"), (0.0, 0.1, 0.5, 1.0)), ("confidence", 0.0)]
)
def test_the_share_of_masks_after_each_step_is_that_of_the_schedule(rule, eta, mask_schedule):
    scheduler = MaskGitScheduler(16, mask_schedule, num_inference_steps=10, sampler="remdm", remask=rule, eta=eta)
    codes = torch.full((500, 32), 16)
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(1, 32, 16, generator=generator).expand(500, -1, -1)
    for index, timestep in enumerate(scheduler.timesteps):
        codes = scheduler.step(logits, timestep, codes, generator).prev_sample
        share = 1 - scheduler.known_shares[index + 1]
        if rule != "loop":
            expected = mask_ratio(torch.tensor((index + 1) / 10, dtype=torch.float64), mask_schedule).item()
            assert share == pytest.approx(expected, abs=1e-9)
        error = math.sqrt(share * (1 - share) / codes.numel())
        # 4.5 standard errors: one of the 260 numbers here is outside by accident with a probability of 0.2%.
        assert abs((codes == 16).float().mean().item() - share) <= 4.5 * error + 1e-9


def test_without_remasking_remdm_is_ancestral_sampling_to_the_last_bit():
    scheduler = MaskGitScheduler(16, num_inference_steps=6, sampler="remdm", eta=0.0)
    states = sample(scheduler, torch.full((50, 32), 16), torch.Generator().manual_seed(3))
    logits = 3 * torch.randn(50, 32, 16, generator=torch.Generator().manual_seed(5))
    codes, generator = torch.full((50, 32), 16), torch.Generator().manual_seed(3)
    for index, known in enumerate([mask_ratio(torch.tensor(i / 6, dtype=torch.float64)) for i in range(6)]):
        noise = -(-torch.rand(logits.shape, generator=generator).clamp(min=1e-20).log()).clamp(min=1e-20).log()
        masked, after = known, mask_ratio(torch.tensor((index + 1) / 6, dtype=torch.float64))
        drawn = (logits + noise).argmax(dim=-1)
        if index < 5:
            unmasks = torch.rand(codes.shape, generator=generator) < ((masked - after) / masked).item()
            drawn = torch.where(unmasks, drawn, 16)
        codes = torch.where(codes == 16, drawn, codes)
        assert torch.equal(states[index + 1], codes)


@pytest.mark.parametrize("remask", REMASK_RULES)
def test_remasking_leaves_tokens_that_were_known_before_the_first_step(remask):
    codes = torch.arange(64).reshape(2, 32) % 16
    start = codes.masked_fill(torch.arange(32) % 3 == 0, 16)
    scheduler = MaskGitScheduler(16, num_inference_steps=8, sampler="remdm", remask=remask, eta=0.8)
    states = sample(scheduler, start, torch.Generator().manual_seed(0))
    known = start != 16
    assert all(torch.equal(state[known], codes[known]) for state in states) and (states[-1] != 16).all()
    masked_again = [((before != 16) & (after == 16)).any() for before, after in zip(states, states[1:], strict=False)]
    assert any(masked_again)


def test_an_unbounded_entropy_is_one_step_and_a_bound_of_0_one_token_a_step():
    start = torch.full((4, 12), 16)
    for bound, masked in ((1e6, [0] * 13), (0.0, [11 - step for step in range(12)] + [0])):
        scheduler = MaskGitScheduler(16, num_inference_steps=13, sampler="entropy-bounded", entropy_bound=bound)
        states = sample(scheduler, start)
        assert [(state == 16).sum(dim=1).tolist() for state in states[1:]] == [[count] * 4 for count in masked]


def test_images_are_done_at_different_steps_and_do_not_change_afterwards():
    start = torch.full((40, 12), 16)
    scheduler = MaskGitScheduler(16, num_inference_steps=12, sampler="entropy-bounded", entropy_bound=2.0)
    states = sample(scheduler, start)
    done = torch.stack([(state != 16).all(dim=1) for state in states])
    steps = (~done).sum(dim=0)
    assert len(steps.unique()) > 1 and (steps < 12).all()
    for before, after, finished in zip(states, states[1:], done, strict=False):
        assert torch.equal(after[finished], before[finished])


def test_a_given_order_is_followed():
    order = [5, 2, 7, 0, 1, 6, 4, 3]
    scheduler = MaskGitScheduler(16, num_inference_steps=4, sampler="ordered", token_order=order)
    start = torch.full((2, 8), 16)
    start[1, 2] = 9  # known already
    for state in sample(scheduler, start):
        known = [position for position in order if state[0, position] != 16]
        assert known == order[: len(known)]
        known = [position for position in order if state[1, position] != 16 and position != 2]
        assert known == [position for position in order if position != 2][: len(known)]


SETTINGS = [{"sampler": name} for name in SAMPLERS if name != "remdm"]
SETTINGS += [{"sampler": "remdm", "remask": rule, "eta": 0.3} for rule in REMASK_RULES]
SETTINGS += [{"sampler": "ordered", "token_order": [3, 2, 1, 0, 7, 6, 5, 4]}]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_every_sampler_ends_with_all_codes_of_which_each_depends_on_its_generator_alone(settings):
    scheduler = MaskGitScheduler(16, num_inference_steps=5, **settings)

    def run(*seeds):
        logits = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(5))
        codes = torch.full((len(seeds), 8), 16)
        scheduler.set_timesteps()
        sources = [torch.Generator().manual_seed(seed) for seed in seeds]
        for timestep in scheduler.timesteps:
            codes = scheduler.step(logits.repeat(len(seeds), 1, 1), timestep, codes, sources).prev_sample
        return codes

    together = run(3, 7, 3)
    assert torch.equal(together, torch.cat([run(3), run(7), run(3)])) and not torch.equal(together[0], together[1])
    assert (together >= 0).all() and (together < 16).all()


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_no_sampler_reads_a_value_from_the_device(settings):
    """Tensors on the meta device have shapes and no values: reading one raises."""
    scheduler = MaskGitScheduler(16, num_inference_steps=5, **settings)
    scheduler.set_timesteps(device="meta", num_masked_tokens=[4, 8])
    codes = torch.empty(2, 8, dtype=torch.long, device="meta")
    logits = torch.empty(2, 8, 16, device="meta")
    for timestep in scheduler.timesteps:
        codes = scheduler.step(logits, timestep, codes, torch.Generator().manual_seed(0)).prev_sample
    assert codes.is_meta and codes.shape == (2, 8)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_a_sampler_is_saved_and_exchanged_as_in_diffusers(settings, tmp_path):
    scheduler = MaskGitScheduler(16, softmax_temperature=0.8, guidance="previous-step", **settings)
    scheduler.save_pretrained(tmp_path)
    saved = MaskGitScheduler.from_pretrained(tmp_path)
    assert {name: saved.config[name] for name in settings} == settings
    assert saved.config.softmax_temperature == 0.8 and saved.config.guidance == "previous-step"
    start = torch.full((2, 8), 16)
    states = [sample(each, start, torch.Generator().manual_seed(0))[-1] for each in (scheduler, saved)]
    assert torch.equal(*states)
    back = MaskGitScheduler.from_config(saved.config, sampler="confidence", softmax_temperature=1.0)
    plain = [sample(each, start, torch.Generator().manual_seed(0))[-1] for each in (back, MaskGitScheduler(16))]
    assert torch.equal(*plain)


def test_a_scheduler_made_by_position_is_exchanged_too():
    changed = MaskGitScheduler.from_config(MaskGitScheduler(16, "linear").config, sampler="remdm")
    settings = (changed.config.mask_token_id, changed.config.mask_schedule, changed.config.sampler)
    assert settings == (16, "linear", "remdm")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"sampler": "best"}, "sampler is 'best'.*entropy-bounded"),
        ({"sampler": ["remdm"]}, r"sampler is \['remdm'\]"),
        ({"remask": "always"}, "remask is 'always'.*rescale"),
        ({"guidance": "strong"}, "guidance is 'strong'.*autoguidance"),
        ({"eta": 1.5}, "eta is 1.5. Use at least 0 and at most 1"),
        ({"eta": math.nan}, "eta is nan"),
        ({"entropy_bound": -0.1}, "entropy_bound is -0.1. Use at least 0"),
        ({"entropy_bound": math.inf}, "entropy_bound is inf, but a finite number"),
        ({"softmax_temperature": 0}, "softmax_temperature is 0"),
        ({"softmax_temperature": "hot"}, "softmax_temperature is 'hot'"),
        ({"loop_interval": [0.9, 0.1]}, "loop_interval is .*0 < first < last < 1"),
        ({"loop_interval": [0.5, 1.0]}, "loop_interval is .*0 < first < last < 1"),
        ({"loop_interval": 0.5}, "loop_interval is 0.5"),
        ({"loop_known_share": 1}, "loop_known_share is 1"),
        ({"token_order": [0, 1]}, "token_order is for the sampler 'ordered', but sampler is 'confidence'"),
        ({"sampler": "ordered", "token_order": [0, 2]}, r"token_order is \[0, 2\]. Give each position"),
        ({"sampler": "ordered", "token_order": [0, 0, 1]}, "Give each position"),
        ({"sampler": "ordered", "token_order": "random"}, "token_order is 'random'"),
        ({"sampler": "ordered", "token_order": []}, r"token_order is \[\]"),
    ],
)
def test_settings_that_are_unknown_or_contradict_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        MaskGitScheduler(16, **bad)


def test_an_order_of_other_positions_is_refused():
    scheduler = MaskGitScheduler(16, sampler="ordered", token_order=[1, 0])
    with pytest.raises(ValueError, match="token_order names 2 positions, but the codes have 8"):
        scheduler.step(torch.zeros(1, 8, 16), 1.0, torch.full((1, 8), 16))
