"""titok_hf.evaluation.numbers: numbers carry what they depend on, and unlike ones are not compared."""

import json
import math
from dataclasses import replace

import pytest

from titok_hf.cli.evaluate import show
from titok_hf.evaluation.numbers import Convention, Number, Report, read_report

CONVENTION = Convention(
    network="Inception, weights 6726825d", rounding="round", num_images=50, image_size=(8, 8), order="shuffled"
)


def test_alike_numbers_are_compared():
    assert Number("fid", 3.0, CONVENTION).minus(Number("fid", 1.0, CONVENTION)) == 2.0


@pytest.mark.parametrize(
    "change",
    [
        {"network": "other"},
        {"rounding": "truncate"},
        {"num_images": 10},
        {"reference": "train"},
        {"image_size": (9, 9)},
    ],
)
def test_unlike_numbers_are_refused_with_what_differs(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"FID cannot be compared.*differ in {name.replace('_', ' ')}"):
        Number("fid", 3.0, CONVENTION).minus(Number("fid", 1.0, replace(CONVENTION, **change)))


def test_what_a_metric_does_not_depend_on_does_no_harm():
    other = replace(CONVENTION, order="sorted")
    assert Number("fid", 3.0, CONVENTION).minus(Number("fid", 1.0, other)) == 2.0
    with pytest.raises(ValueError, match="differ in order"):
        Number("inception_score", 3.0, CONVENTION).minus(Number("inception_score", 1.0, other))
    other = replace(CONVENTION, network="other")
    assert Number("psnr", 3.0, CONVENTION).minus(Number("psnr", 1.0, other)) == 2.0


def test_different_metrics_and_unknown_ones():
    with pytest.raises(ValueError, match="FID and sFID are different metrics"):
        Number("fid", 3.0, CONVENTION).minus(Number("sfid", 1.0, CONVENTION))
    with pytest.raises(ValueError, match="own score cannot be compared"):
        Number("own_score", 3.0, CONVENTION).minus(Number("own_score", 1.0, replace(CONVENTION, order="sorted")))


def test_a_report_comes_back_from_its_file(tmp_path):
    report = Report({"fid": 3.5, "psnr": 20.0}, CONVENTION, {"model": "m"}, {"by_class": {}}, ("a warning",))
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report.as_dict()))
    again = read_report(path)
    assert again.numbers == report.numbers and again.warnings == ("a warning",)
    assert "split" not in report.as_dict()["convention"]


def test_a_file_of_numbers_that_are_not_finite_is_json(tmp_path, capsys):
    path = tmp_path / "report.json"
    show(Report({"psnr": math.inf, "l1": 0.0}, CONVENTION), path, as_json=False)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(path.read_text(), parse_constant=refuse)["numbers"] == {"psnr": None, "l1": 0.0}
    again = read_report(path)
    assert math.isnan(again.values["psnr"]) and again.values["l1"] == 0.0
    assert "inf" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"numbers": {}, "convention": {"colour": "red"}}'])
def test_a_file_of_something_else_is_refused(content, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="is no report of `titok-hf evaluate`"):
        read_report(path)
