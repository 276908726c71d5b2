"""The benchmarks: they run on tiny models, and what they compare with computes the same."""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
TINY = ["--model", "tiny", "--rounds", "1", "--threads", "1", "--batch", "1", "2"]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The rows of all sections that need no other program, by name, and the folder of the results."""
    folder = tmp_path_factory.mktemp("speed")
    threads = torch.get_num_threads()
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from harness import read
        from speed import main

        main(
            [
                "tokenizer",
                "generate",
                "images",
                "training",
                "preprocessing",
                "dit",
                "report",
                *TINY,
                "--out",
                str(folder),
            ]
        )
    finally:
        sys.path.remove(str(BENCHMARKS))
        torch.set_num_threads(threads)
    return folder, {row.name: row for path in folder.glob("*.json") for row in read(path)[1]}


def test_the_original_way_computes_the_same(results):
    _, rows = results
    for name in ("encode, batch 1", "encode, batch 2", "generate, batch 1", "generate, batch 2"):
        assert rows[name].values["equal codes, pipeline"] == 1, name
        assert rows[name].values["equal codes, optimized"] == 1, name
    for name in ("decode, batch 2", "pixel decoder, batch 2", "500 x 375 pixels", "generator, batch 2"):
        assert rows[name].values["largest difference, pipeline"] < 1e-4, name
    assert rows["class -> image, batch 2"].values["largest difference, optimized"] <= 1  # of 255


@pytest.mark.parametrize("variant", ["b64", "s128"])
def test_the_original_way_of_the_other_generators_is_the_same(variant):
    from original_way import Sampler
    from speed_models import SAMPLING, TINY_GENERATOR, fill, pipeline_of

    from tiny_pipeline import tiny_tokenizer
    from titok_hf import MaskGitTransformer1DModel

    sizes = TINY_GENERATOR | {"codebook_size": 16, "num_hidden_layers": 2}
    generator = fill(MaskGitTransformer1DModel.from_variant(variant, **sizes).eval())
    pipe = pipeline_of(tiny_tokenizer(), generator, variant)
    original = Sampler.like(generator)
    torch.manual_seed(0)
    expected = original.generate(torch.arange(3), **SAMPLING[variant])
    torch.manual_seed(0)
    assert torch.equal(pipe([0, 1, 2], output_type="latent").codes, expected)


def test_results_name_their_conditions_and_become_a_table(results):
    folder, rows = results
    values = json.loads((folder / "generate.json").read_text())
    assert values["machine"]["versions"]["torch"] == version("torch") and values["settings"]["model"] == "tiny"
    text = (folder / "results.md").read_text()
    assert "| class -> image, batch 1 | optimized |" in text and version("torch") in text
    assert "extrapolated: times our image with 250 steps" in text
    assert (folder / "ratios.png").stat().st_size > 1000
    assert all(len(seconds) == 1 for row in rows.values() for seconds in row.seconds.values())


def test_growth_and_loading_are_tables_and_a_plot(tmp_path, monkeypatch):
    import speed
    from harness import read

    def in_this_process(script, command, *arguments):
        return 0.5 if script == "-c" else speed.PARTS[command](speed.parsed([command, *arguments]))

    monkeypatch.setattr(speed, "in_new_process", in_this_process)  # new processes would import everything ten times
    sizes = ["--growth-batches", "1", "2", "--growth-tokens", "8", "--growth-sizes", "128", "--growth-steps", "2"]
    threads = torch.get_num_threads()
    speed.main(["growth", "load", "report", *TINY, *sizes, "--out", str(tmp_path)])
    torch.set_num_threads(threads)
    growth, load = (read(tmp_path / f"{name}.json")[1] for name in ("growth", "load"))
    assert [row.name for row in growth] == ["batch 1", "batch 2", "tokens 8", "image size 128", "steps 2"]
    assert all(row.seconds.keys() == {"encode", "generate", "decode"} for row in growth)
    assert load[0].seconds.keys() == {"original's way", "pipeline"} and load[1].seconds == {"pipeline": [0.5]}
    assert (tmp_path / "growth.png").stat().st_size > 1000


def test_sizes_that_would_take_too_long_are_left_out(tmp_path, monkeypatch, capsys):
    import speed
    from harness import read

    def in_proportion(script, command, option, *arguments):
        size = int(option.partition("=")[2])
        return {"seconds": {"encode": [size], "decode": [size]}, "memory before": 1.0, "peak memory": 2.0}

    monkeypatch.setattr(speed, "in_new_process", in_proportion)
    sizes = ["--growth-batches", "1", "2", "4", "8", "--growth-tokens", "--growth-sizes", "--growth-steps"]
    speed.main(["growth", *TINY, *sizes, "--seconds", "15", "--out", str(tmp_path)])
    assert [row.name for row in read(tmp_path / "growth.json")[1]] == ["batch 1", "batch 2", "batch 4"]
    assert "batch 8: left out, as the size before took 8 s" in capsys.readouterr().out


def test_a_race_ends_with_the_round_in_which_its_time_is_spent():
    from harness import race

    ways = {"first": lambda: time.sleep(0.02), "second": lambda: None}
    assert len(race(ways, rounds=100, limit=0.05)["second"]) < 10
    assert len(race(ways, rounds=3, limit=0.0, warm_up=False)["first"]) == 1


def test_the_peak_of_memory_is_that_of_the_process_itself():
    from harness import in_new_process, peak_memory

    torch.ones(2**28)  # 1 GiB, which a process that is started does not have
    script = "import sys; sys.path.insert(0, sys.argv[1]); from harness import peak_memory; print(peak_memory())"
    assert in_new_process("-c", script, str(BENCHMARKS)) < peak_memory() / 2


def test_engines_are_measured_beside_the_original_way(tmp_path, capsys):
    import engines
    from harness import Row
    from speed_report import targets

    threads = torch.get_num_threads()
    engines.main([*TINY, "--engines", "--out", str(tmp_path)])
    torch.set_num_threads(threads)
    assert "| class -> image, batch 1 | pipeline |" in (tmp_path / "results.md").read_text()
    seconds = {
        "original's way": [2.0, 2.2],
        "onnx fp32": [1.0, 1.2],
        "openvino fp32": [1.5, 1.5],
        "onnx int8": [0.1, 0.1],
    }
    (line,) = (line for line in targets([Row("engines", "class -> image, batch 1", seconds)]) if line)
    assert line == "* class -> image, batch 1 on onnx fp32: 1.92, target 2.0 (missed)."


def test_the_benchmark_of_a_gpu_runs_without_one(tmp_path, monkeypatch):
    import gpu
    from harness import read

    monkeypatch.setattr(gpu, "compile_models", lambda pipe: None)  # compilation takes minutes and is PyTorch's
    gpu.main(["--device", "cpu", "--model", "tiny", "--rounds", "1", "--batch", "1", "2", "--out", str(tmp_path)])
    about, (codes, training, *images) = read(tmp_path / "gpu.json")
    assert codes.values == {"share equal to the CPU": 1} and about["settings"]["left out, no time"] == []
    assert training.seconds.keys() == {"original's way", "pipeline"}
    assert [row.values["batch"] for row in images] == [1, 2]
    assert all(row.values["images a second, compiled"] > 0 for row in images)


def test_without_a_gpu_its_benchmark_says_how_to_try_it(capsys, monkeypatch):
    import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "no CUDA device; --device cpu --model tiny tries the script" in capsys.readouterr().err
