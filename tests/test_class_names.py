"""Classes by number and name."""

import numpy as np
import pytest
import torch

from titok_hf.class_names import ClassNames

ID2LABEL = {0: "tench, Tinca tinca", 1: "Cardigan, Cardigan Welsh corgi", 2: "cardigan", 3: "crane", 4: "crane"}
NAMES = ClassNames(ID2LABEL, num_classes=6)


@pytest.mark.parametrize(
    "labels, expected",
    [
        (1, [1]),
        ("tench", [0]),
        ("TINCA TINCA", [0]),
        (" tench, tinca tinca ", [0]),
        (["tench", 5, "cardigan welsh corgi"], [0, 5, 1]),
        ("cardigan", [2]),  # a whole name goes before another class's synonym
        (np.array([4, 3]), [4, 3]),
        (torch.tensor([4, 3]), [4, 3]),
        (torch.tensor(2), [2]),
        (np.int64(2), [2]),
    ],
)
def test_numbers_and_names_become_numbers(labels, expected):
    assert NAMES.label_ids(labels) == expected


@pytest.mark.parametrize(
    "labels, message",
    [
        ("tinca", r"'tinca', which is not a class of this model\. Nearest names: .*[Tt]inca tinca"),
        ("zzzz", r"not a class of this model\. Use an integer below 6"),
        ("crane", r"several classes: 3 \(crane\), 4 \(crane\)"),
        ([0, 6], r"class_labels has 6, but this model has 6 classes"),
        (-1, r"from 0 to 5"),
        (1.5, r"1\.5, which is neither a number nor a name"),
        (None, r"None, which is neither"),
        ([], r"empty"),
    ],
)
def test_what_is_no_class_is_refused_with_a_way_out(labels, message):
    with pytest.raises(ValueError, match=message):
        NAMES.label_ids(labels)


def test_a_model_without_names_wants_numbers():
    with pytest.raises(ValueError, match="have no names"):
        ClassNames({}, 10).label_ids("tench")
    assert ClassNames({}, 10).label_ids([9]) == [9]


def test_membership_knows_names_in_any_case():
    assert "Tinca TINCA" in NAMES and "crane" in NAMES and "7" not in NAMES
