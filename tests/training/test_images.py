"""titok_hf.training.images: images on the way to the model, errors about data, and the contact sheets of a run."""

import numpy as np
import pytest
import torch
from PIL import Image

from titok_hf.training.images import (
    errors_of_section,
    sheet_of,
    sheet_of_pairs,
    to_pixel_values,
)
from titok_hf.training.recipes import RecipeError


def test_pixel_values_are_shares_of_255():
    assert to_pixel_values(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])


def colours(picture: Image.Image, rows: int, columns: int) -> list[list[int]]:
    """The grey value in the middle of each cell."""
    down = ((np.arange(rows) + 0.5) * picture.height / rows).astype(int)
    across = ((np.arange(columns) + 0.5) * picture.width / columns).astype(int)
    return np.asarray(picture.convert("L"))[np.ix_(down, across)].tolist()


def test_a_picture_shows_images_row_by_row():
    images = (torch.arange(6) / 5).view(6, 1, 1, 1).expand(6, 3, 8, 8)
    assert colours(sheet_of(images, columns=3), 2, 3) == [[0, 51, 102], [153, 204, 255]]


def test_a_picture_of_pairs_has_reconstructions_beneath_their_images():
    images = torch.tensor([0.0, 0.2, 0.4, 0.6]).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    picture = sheet_of_pairs(images, images + 0.2, columns=2)
    assert colours(picture, 4, 2) == [[0, 51], [51, 102], [102, 153], [153, 204]]


@pytest.mark.parametrize(
    ("num_images", "rows", "columns", "expected"),
    [
        (3, 4, 2, [[0, 51], [51, 102], [102, 255], [153, 255]]),  # 255: the paper
        (1, 2, 1, [[0], [51]]),
        (5, 4, 3, [[0, 51, 102], [51, 102, 153], [153, 204, 255], [204, 255, 255]]),
    ],
)
def test_the_last_rows_of_a_picture_of_pairs_are_a_row_of_each_too(num_images, rows, columns, expected):
    images = (torch.arange(num_images) / 5).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    picture = sheet_of_pairs(images, images + 0.2, columns=columns if num_images > 1 else 16)
    assert colours(picture, rows, columns) == expected


def test_values_beyond_black_and_white_are_cut_off():
    images = torch.tensor([-0.5, 1.5]).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    assert colours(sheet_of(images, columns=2), 1, 2) == [[0, 255]]


@pytest.mark.parametrize("error", [FileNotFoundError("no such data"), ValueError("no such data")])
def test_errors_about_data_name_the_section_of_the_recipe(error):
    with pytest.raises(RecipeError, match="^codes: no such data$"), errors_of_section("codes"):
        raise error
