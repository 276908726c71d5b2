"""Evaluation during training: processes share the work, and measure what one process measures."""

import json
from pathlib import Path

import pytest
import yaml

import evaluate_in_processes
from image_sources import CLASSES, image_folder
from launched import run_processes
from small_classifier import save_small_classifier

KINDS = ("tokenizer", "kl", "vqgan", "stage1", "generator")


@pytest.mark.slow
def test_two_processes_share_an_evaluation_and_measure_what_one_measures(values_of, tmp_path, monkeypatch):
    save_small_classifier(tmp_path / "network", dict(enumerate(CLASSES)))
    image_folder(tmp_path / "images" / "test", 120)
    image_folder(tmp_path / "images" / "train", 120)
    files = []
    for kind in KINDS:
        values = values_of(kind)
        values["data"] |= {"source": str(tmp_path / "images"), "resize_mode": "resize"}
        # 120 test images: three batches of codes, two of images, so the shares differ.
        values["intervals"] |= {"num_test_images": 120, "frechet_network": str(tmp_path / "network")}
        files.append(tmp_path / f"{kind}.yaml")
        files[-1].write_text(yaml.safe_dump(values))
    alone = [evaluate_in_processes.evaluated(file) for file in files]
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    shared = run_processes(list(map(str, files)), 2, (str(Path(evaluate_in_processes.__file__)),))
    for kind, expected, *shares in zip(KINDS, alone, *map(json.loads, shared), strict=True):
        counts = [share.pop("examples") for share in shares]
        assert sum(counts) == expected.pop("examples") and min(counts) > 0, kind
        assert shares[0] == shares[1], kind
        assert shares[0] == pytest.approx(expected, rel=1e-5), kind
