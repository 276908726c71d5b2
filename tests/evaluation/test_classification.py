"""titok_hf.evaluation.classification: counting with a real, tiny judge."""

import pytest
import torch
from transformers import RegNetConfig, RegNetForImageClassification

from titok_hf.evaluation.classification import JudgeMeter

NAMES = ["bag", "coat", "shirt"]


@pytest.fixture
def judge():
    torch.manual_seed(0)
    config = RegNetConfig(
        embedding_size=4,
        hidden_sizes=[4],
        depths=[1],
        groups_width=4,
        id2label=dict(enumerate(NAMES)),
        label2id={name: index for index, name in enumerate(NAMES)},
    )
    return RegNetForImageClassification(config).eval()


@torch.inference_mode()
def test_accuracy_overall_and_by_class(judge):
    images = torch.rand(30, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    images[::2] *= 0.1
    predictions = judge(pixel_values=images).logits.argmax(dim=1)
    labels = predictions.clone()
    labels[:6] = (labels[:6] + 1) % 3  # six mistakes
    meter = JudgeMeter(judge, NAMES)
    meter.update(images[:20], labels[:20])
    meter.update(images[20:], labels[20:])
    result = meter.compute()
    assert result["accuracy"] == pytest.approx(24 / 30)
    for index, name in enumerate(NAMES):
        of_class = labels == index
        if of_class.any():
            expected = (predictions[of_class] == index).float().mean().item()
            assert result["by_class"][name] == pytest.approx(expected)
        else:
            assert name not in result["by_class"]
    assert result["lowest_class"] == min(result["by_class"].values())


def test_a_judge_of_other_classes_is_refused(judge):
    with pytest.raises(ValueError, match="judge knows the classes bag, coat, shirt; the images have coat, bag, shirt"):
        JudgeMeter(judge, ["coat", "bag", "shirt"])
