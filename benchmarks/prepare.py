"""Preparation against a bare Pillow loop on the same cores, and its memory for few and for many images.

    python benchmarks/prepare.py speed --workers 2
    python benchmarks/prepare.py memory
    python benchmarks/prepare.py memory --stream
    python benchmarks/prepare.py scale

`speed` alternates rounds of both in one run and prints their ratio; `memory` measures a folder of files, or with
`--stream` a stream of one Parquet file; `scale` prints time and bytes an image. The images are photo-like JPEGs of
500 x 375 pixels, ImageNet's usual size, made from the stamps of Tux Paint.

Workers import this file, so what only the first process needs is imported where it is used, as in the command.
"""

import argparse
import io
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (500, 375)


def make_photos(folder: Path, count: int, distinct: int = 400) -> Path:
    """JPEGs of quality 90 with the sharpness and noise of a photo; beyond `distinct` they are links."""
    from real_images import STAMPS

    stamps = sorted(path for path in STAMPS.rglob("*.png"))
    chance = np.random.default_rng(0)
    (folder / "photos").mkdir(parents=True)
    for number in range(count):
        path = folder / "photos" / f"{number:06d}.jpg"
        if number >= distinct:
            path.hardlink_to(folder / "photos" / f"{number % distinct:06d}.jpg")
            continue
        stamp = (
            Image.open(stamps[number % len(stamps)])
            .convert("RGBA")
            .convert("RGB")
            .resize(SIZE, Image.Resampling.BICUBIC)
        )
        pixels = np.asarray(stamp) + chance.normal(0, 4, (SIZE[1], SIZE[0], 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return folder


def bare_loop(paths: list[Path], size: int = 256) -> int:
    """Decode, resize, crop, encode: what anybody would write. Returns the bytes of the results."""
    total = 0
    for path in paths:
        image = Image.open(path).convert("RGB")
        scale = size / min(image.size)
        image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=95)
        total += len(stream.getvalue())
    return total


def bare_loops(paths: list[Path], workers: int) -> None:
    """The bare loop over all files, here or in so many processes, which are started for it as `prepare` starts its."""
    if workers == 0:
        bare_loop(paths)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.map(bare_loop, [paths[index::workers] for index in range(workers)], chunksize=1)


def speed(workers: int, count: int, rounds: int) -> None:
    """Prints images a second of both, and the medians of their ratios in elapsed time and in processor time."""
    from titok_hf.data.prepare import PrepareSettings, prepare
    from titok_hf.data.sources import open_dataset

    with tempfile.TemporaryDirectory() as folder:
        source = make_photos(Path(folder) / "source", count)
        paths = sorted((source / "photos").iterdir())
        dataset = open_dataset(str(source), "train")
        prepare(dataset, Path(folder) / "warm", PrepareSettings(), workers=0, limit=8)
        ratios = []
        for number in range(rounds):
            bare = cost_of(lambda: bare_loops(paths, workers))
            output = Path(folder) / f"out-{number}"
            ours = cost_of(lambda output=output: prepare(dataset, output, PrepareSettings(), workers=workers))
            ratios.append(bare / ours)
            print(f"bare loop {count / bare[0]:6.1f} images/s, prepare {count / ours[0]:6.1f}: {ratios[-1].round(3)}")
        elapsed, processor = np.median(ratios, axis=0)
        print(f"workers {workers}: {elapsed:.1%} of the bare loop; by processor time {processor:.1%}")


def cost_of(work: Callable[[], object]) -> np.ndarray:
    """Elapsed seconds, and seconds of processor time of this process and of the workers that ended in it."""

    def processor_time() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    start, start_processor = time.perf_counter(), processor_time()
    work()
    return np.array([time.perf_counter() - start, processor_time() - start_processor])


def memory(workers: int, stream: bool) -> None:
    """Prints the peak resident memory of the process that reads and writes, each count in a fresh one."""
    with tempfile.TemporaryDirectory() as folder:
        for count in (1_000, 20_000):
            source = str(make_photos(Path(folder) / str(count), count))
            if stream:
                source = as_parquet(source)
            command = [sys.executable, __file__, "peak", "--source", source, "--workers", str(workers)]
            subprocess.run([*command, *["--stream"] * stream], check=True)


def as_parquet(source: str) -> str:
    """The same images in one Parquet file."""
    from titok_hf.data.sources import open_dataset

    open_dataset(source, "train").to_parquet(f"{source}.parquet", batch_size=100)
    return f"{source}.parquet"


def peak(workers: int, source: str, stream: bool) -> None:
    """One measurement of `memory`."""
    from titok_hf.data.prepare import PrepareSettings, prepare
    from titok_hf.data.sources import open_dataset

    dataset = open_dataset(source, "train", streaming=stream)
    opened = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as folder:
        report = prepare(dataset, folder, PrepareSettings(shard_size=1_000), workers=workers)
    peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{report.num_images:6,} images: {opened:.0f} MiB when the source is open, {peak_memory:.0f} MiB at the end")


def scale(count: int) -> None:
    """Prints milliseconds of one core and bytes an image, at 256 and 512 pixels."""
    from titok_hf.data.prepare import PrepareSettings, prepare
    from titok_hf.data.sources import open_dataset

    with tempfile.TemporaryDirectory() as folder:
        source = make_photos(Path(folder) / "source", count)
        dataset = open_dataset(str(source), "train")
        for size in (256, 512):
            for crop in ("center", "none"):
                start = time.perf_counter()
                settings = PrepareSettings(image_size=size, crop=crop)
                report = prepare(dataset, Path(folder) / f"{size}-{crop}", settings, workers=0)
                seconds = (time.perf_counter() - start) / count
                print(f"{size} {crop}: {1000 * seconds:.1f} ms, {report.num_bytes / count / 1000:.1f} kB an image")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "memory", "peak", "scale"))
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--count", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--stream", action="store_true", help="for `memory`: a stream of Parquet, not a folder of files"
    )
    parser.add_argument("--source", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    from datasets import disable_progress_bars

    disable_progress_bars()
    if arguments.what == "speed":
        speed(arguments.workers, arguments.count, arguments.rounds)
    elif arguments.what == "memory":
        memory(arguments.workers, arguments.stream)
    elif arguments.what == "peak":
        peak(arguments.workers, arguments.source, arguments.stream)
    else:
        scale(arguments.count)
