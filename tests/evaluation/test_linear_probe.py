"""titok_hf.evaluation.linear_probe: the right tokens, the true minimum, and accuracies that can be counted by hand."""

import pytest
import torch
import torch.nn.functional as F

from tiny_pipeline import tiny_tokenizer
from titok_hf.evaluation.linear_probe import FEATURES, POOLINGS, fit_classifier, linear_probe, token_features


def coloured(count, seed):
    """Images whose class is their colour, in batches of uneven sizes: uint8, (batch, 3, 32, 32)."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 60, (count, 3, 32, 32), generator=rng, dtype=torch.uint8)
    images[torch.arange(count), labels] += 180
    return [(images[:7], labels[:7]), (images[7:], labels[7:])]


def test_encoder_tokens_are_what_the_projection_gets_and_quantised_ones_what_the_decoder_gets():
    model = tiny_tokenizer()
    images = torch.rand(2, 3, 32, 32)
    tokens = token_features(model, images)
    assert tokens["encoder"].shape == (2, 8, 32) and tokens["quantized"].shape == (2, 8, 4)
    projected = model.encoder.output_projection(tokens["encoder"])
    assert torch.allclose(projected, model.encoder(images, return_dict=True).last_hidden_state, atol=1e-6)
    assert torch.equal(tokens["quantized"], model.encode(images, return_dict=True).latents)
    assert not model.encoder.post_norm._forward_hooks


def test_tokens_stay_whole_where_the_legacy_layout_mixes_them():
    plain, legacy = (tiny_tokenizer(legacy_latent_layout=flag) for flag in (False, True))
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(token_features(plain, images)["encoder"], token_features(legacy, images)["encoder"])


def test_the_classifier_is_at_the_minimum_of_its_loss():
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 5, generator=rng)
    labels = torch.randint(0, 3, (60,), generator=rng)
    weight, bias, converged = fit_classifier(inputs, labels, 3, l2=0.1)
    assert converged

    def loss(weight, bias):
        return F.cross_entropy(inputs @ weight.T + bias, labels) + 0.05 * weight.square().sum()

    weight, bias = weight.double(), bias.double()
    inputs = inputs.double()
    lowest = loss(weight, bias)
    for seed in range(20):
        rng = torch.Generator().manual_seed(seed)
        step = 1e-2 * torch.randn(3, 6, generator=rng, dtype=torch.float64)
        assert loss(weight + step[:, :5], bias + step[:, 5]) > lowest


def test_features_that_nearly_repeat_one_another_are_solved_too():
    """As the channels of a trained model do: they need more iterations than independent ones."""
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(400, 6, generator=rng)
    inputs = hidden @ torch.randn(6, 64, generator=rng) + 0.1 * torch.randn(400, 64, generator=rng)
    labels = (hidden[:, 0] + 0.5 * torch.randn(400, generator=rng) > 0).long()
    inputs = (inputs - inputs.mean(dim=0)) / inputs.std(dim=0)
    weight, bias, converged = fit_classifier(inputs, labels, 2, l2=1e-4)
    assert converged
    loss = F.cross_entropy(inputs @ weight.T + bias, labels) + 0.5e-4 * weight.square().sum()
    again = fit_classifier(inputs.double(), labels, 2, l2=1e-4)
    exact = F.cross_entropy(inputs.double() @ again[0].T + again[1], labels) + 0.5e-4 * again[0].square().sum()
    assert loss.item() == pytest.approx(exact.item(), abs=1e-4)


def test_classes_that_tokens_tell_are_named_and_others_are_not():
    model = tiny_tokenizer()
    results = linear_probe(model, coloured(60, 0), coloured(30, 1), 3)
    assert [(each.features, each.pooling) for each in results] == [(f, p) for f in FEATURES for p in POOLINGS]
    assert [each.num_features for each in results] == [32, 8 * 32, 4, 8 * 4]
    assert all(each.converged for each in results)
    assert results[0].test_accuracy > 0.95 and results[0].train_accuracy > 0.95
    rng = torch.Generator().manual_seed(2)
    shuffled = [(images, labels[torch.randperm(len(labels), generator=rng)]) for images, labels in coloured(60, 0)]
    by_chance = linear_probe(model, shuffled, coloured(30, 1), 3, l2=1.0)
    assert by_chance[0].test_accuracy < 0.7


def test_neither_the_batches_nor_the_scale_of_the_features_change_the_result():
    model = tiny_tokenizer()
    whole = [tuple(torch.cat(parts) for parts in zip(*coloured(30, 0), strict=True))]
    first, again = linear_probe(model, whole, coloured(30, 1), 3), linear_probe(model, coloured(30, 0), whole, 3)
    assert [each.train_accuracy for each in first] == [each.train_accuracy for each in again]


@pytest.mark.parametrize(
    ("train", "l2", "message"),
    [
        ([], 0.0, "There are no images"),
        ([(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.ones(2, dtype=torch.int64))], 0.0, "of one class"),
        (coloured(9, 0), -1.0, "l2 is -1.0"),
        ([(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), None)], 0.0, "have no labels"),
    ],
)
def test_what_cannot_be_probed_is_refused(train, l2, message):
    with pytest.raises(ValueError, match=message):
        linear_probe(tiny_tokenizer(), train, coloured(9, 1), 3, l2)
