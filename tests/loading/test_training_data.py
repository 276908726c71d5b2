"""titok_hf.data.training_data: opening images and codes, and what is said before the first step."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from image_sources import CLASSES, encoded, image_folder
from titok_hf.data.training_data import check_codes, class_names, classes_of_splits, num_views, open_codes, open_images


def codes(rows, dtype="uint16", **columns):
    features = {"codes": List(Value(dtype))}
    features |= {name: Value("string" if isinstance(column[0], str) else "int64") for name, column in columns.items()}
    return Dataset.from_dict({"codes": rows} | columns, features=Features(features))


@pytest.mark.parametrize("streaming", [False, True])
def test_images_are_opened_with_labels_or_without(streaming, tmp_path):
    image_folder(tmp_path / "classes", 6)
    labelled = open_images(str(tmp_path / "classes"), streaming=streaming)
    assert list(labelled.features) == ["image", "label"] and class_names(labelled) == list(CLASSES)
    plain = open_images(str(tmp_path / "classes" / "bag"), streaming=streaming)
    assert list(plain.features) == ["image"]
    with pytest.raises(ValueError, match="no column 'label'.*one folder a class"):
        class_names(plain)


def test_columns_of_any_name_are_understood(tmp_path):
    features = Features({"photo": Image(), "mask": Image(), "kind": Value("string"), "source_index": Value("int64")})
    rows = {"photo": [encoded(0)] * 2, "mask": [encoded(1)] * 2, "kind": ["b", "a"], "source_index": [4, 7]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    path = str(tmp_path / "rows.parquet")
    dataset = open_images(path, image_column="photo", label_column="kind")
    assert dataset.column_names == ["image", "label", "source_index"] and class_names(dataset) == ["a", "b"]
    with pytest.raises(ValueError, match="Its columns of images: photo, mask"):
        open_images(path)


def test_codes_are_opened_and_texts_become_classes(tmp_path):
    codes([[1, 2], [3, 4]], label=["shirt", "bag"]).to_parquet(tmp_path / "rows.parquet")
    dataset = open_codes(str(tmp_path / "rows.parquet"))
    assert class_names(dataset) == ["bag", "shirt"] and dataset["label"][:] == [1, 0]
    assert "codes" in open_codes(str(tmp_path / "rows.parquet"), streaming=True).features
    Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "text.parquet")
    with pytest.raises(ValueError, match="neither a column 'codes' nor one 'latents'; its columns are text"):
        open_codes(str(tmp_path / "text.parquet"))


def test_classes_without_names_are_numbered():
    assert class_names(codes([[1], [2]], label=[3, 1])) == ["0", "1", "2", "3"]
    with pytest.raises(ValueError, match="labels of this stream have no names"):
        class_names(codes([[1], [2]], label=[3, 1]).to_iterable_dataset())


@pytest.mark.parametrize(("views", "expected"), [([0, 1, 2] * 2, 3), ([0] * 6, 1), (None, 1)])
def test_the_number_of_views_is_read_from_the_data(views, expected):
    dataset = codes([[1]] * 6) if views is None else codes([[1]] * 6, view=views)
    assert num_views(dataset) == num_views(dataset.to_iterable_dataset()) == expected


def test_codes_in_range_pass_in_any_type_and_order():
    for dtype in ("uint8", "int64"):
        dataset = codes([[0, 99], [5, 6]], dtype)
        for rows in (dataset, dataset.select([1]), dataset.to_iterable_dataset()):
            check_codes(rows, codebook_size=100, num_latent_tokens=2)
    features = Features({"codes": List(Value("uint16"), length=32), "label": ClassLabel(num_classes=2)})
    many = np.random.default_rng(0).integers(0, 1024, (2_000, 32))
    dataset = Dataset.from_dict({"codes": many, "label": [0] * 2_000}, features=features)
    check_codes(dataset, 1024, 32)
    with pytest.raises(ValueError, match=r"Row .* in \[0, 1000\)"):
        check_codes(dataset, 1000, 32)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1, 2], [3, 100], [100, 4]], r"Row 1 holds the code 100; this model's codes lie in \[0, 100\)"),
        ([[1, 2], [3, 4], [-1, 4]], "Row 2 holds the code -1"),
        ([[1, 2], [3, None]], "Row 1 holds the code None"),
        ([[1, 2], [3], [4, 5]], "Row 1 has 1 codes; this model has 2 latent tokens"),
        ([[1, 2], None], "Row 1 has 0 codes"),
    ],
)
def test_a_wrong_code_is_named_with_its_row(rows, message):
    for dataset in (codes(rows, "int64"), codes(rows, "int64").to_iterable_dataset()):
        with pytest.raises(ValueError, match=message):
            check_codes(dataset, codebook_size=100, num_latent_tokens=2)
    with pytest.raises(ValueError, match="no column 'codes'; its columns are text"):
        check_codes(Dataset.from_dict({"text": ["a"]}), 100, 2)


def test_splits_that_number_their_classes_differently_are_refused():
    train, test = (codes([[1]], label=[0]).cast_column("label", ClassLabel(names=n)) for n in (["a", "b"], ["b"]))
    with pytest.raises(ValueError, match="number 0 is 'a' in the training split and 'b' in the test split. Prepare"):
        classes_of_splits(train, test)
    assert classes_of_splits(train, train) == ["a", "b"]
    numbered = codes([[1]], label=[4])
    assert classes_of_splits(numbered, codes([[1]], label=[5])) == [str(number) for number in range(6)]
