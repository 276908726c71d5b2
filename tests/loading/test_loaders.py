"""titok_hf.data.loaders: the order, the augmentation, the shares of processes, and an exact resume."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from image_sources import encoded, picture
from titok_hf import image_transforms as transforms
from titok_hf.data import resumable
from titok_hf.data.loaders import CodeLoader, ImageLoader
from titok_hf.data.shards import Part

NUM_IMAGES = 23


@pytest.fixture(scope="module")
def images():
    rows = {"image": [encoded(n) for n in range(NUM_IMAGES)], "label": [n % 3 for n in range(NUM_IMAGES)]}
    rows["source_index"] = list(range(NUM_IMAGES))
    features = {"image": Image(), "label": ClassLabel(num_classes=3), "source_index": Value("int64")}
    return Dataset.from_dict(rows, features=Features(features))


@pytest.fixture(scope="module")
def codes():
    """Three views of each image; a code tells image and view."""
    rows = [(image, view) for image in range(NUM_IMAGES) for view in range(3)]
    columns = {
        "codes": [[image, view] for image, view in rows],
        "label": [image % 3 for image, _ in rows],
        "view": [view for _, view in rows],
        "source_index": [image for image, _ in rows],
    }
    features = {"codes": List(Value("uint16"), length=2), "label": ClassLabel(num_classes=3)}
    features |= {"view": Value("int16"), "source_index": Value("int64")}
    return Dataset.from_dict(columns, features=Features(features))


def same(first, second):
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(first, second, strict=True)
    )


def streaming(dataset):
    return dataset.to_iterable_dataset(num_shards=4)


def test_without_augmentation_it_is_the_data_set(images):
    loader = ImageLoader(images, 32, batch_size=5, random_crop=False, flip=False, shuffle=False)
    batch = next(iter(loader))
    assert batch["pixels"].dtype == torch.uint8 and batch["label"].tolist() == [0, 1, 2, 0, 1]
    expected = np.stack([np.asarray(transforms.center_crop(picture(n), 32)) for n in range(5)])
    assert np.array_equal(batch["pixels"].permute(0, 2, 3, 1), expected)


def test_augmentation_differs_from_epoch_to_epoch_and_mirrors_half(images):
    loader = ImageLoader(images, 32, batch_size=23, random_crop=False, shuffle=False)
    expected = np.stack([np.asarray(transforms.center_crop(picture(n), 32)) for n in range(23)])
    mirrored = []
    for batch in islice(loader, 4):
        pixels = batch["pixels"].permute(0, 2, 3, 1).numpy()
        mirrored.append((pixels == expected[:, :, ::-1]).all(axis=(1, 2, 3)))
        assert (mirrored[-1] | (pixels == expected).all(axis=(1, 2, 3))).all()
    assert 20 < np.sum(mirrored) < 72 and not (mirrored[0] == mirrored[1]).all()
    crops = [batch["pixels"] for batch in islice(ImageLoader(images, 32, 23, flip=False, shuffle=False), 2)]
    assert not torch.equal(*crops)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("taken", [0, 3, 5, 7])
def test_a_resumed_loader_gives_what_it_would_have_given(images, codes, stream, taken):
    def loaders(part=None):
        wrap = streaming if stream else lambda dataset: dataset
        return ImageLoader(wrap(images), 16, 4, part=part), CodeLoader(wrap(codes), 4, num_views=3, part=part)

    for straight, stopped, resumed in zip(loaders(), loaders(), loaders(), strict=True):
        expected = list(islice(straight, 12))
        for _ in islice(stopped, taken):
            pass
        resumed.load_state_dict(stopped.state_dict())
        assert same(list(islice(resumed, 12 - taken)), expected[taken:])
        assert not same(expected[:5], expected[5:10])


def in_uneven_files(dataset, per_image):
    """A stream in two shares, of 6 images and of the others."""

    def rows(shares):
        for first, last in shares:
            yield from dataset.select(range(first * per_image, last * per_image))

    shares = [(0, 6), (6, NUM_IMAGES)]
    return IterableDataset.from_generator(rows, features=dataset.features, gen_kwargs={"shares": shares})


@pytest.mark.parametrize("taken", [0, 2, 7, 13])
@pytest.mark.parametrize("kind", ["images", "codes"])
def test_each_process_finds_its_place_in_a_stream_of_uneven_files(kind, taken, images, codes):
    """From its own place, and also from another process's, which stands in another epoch."""

    def loader(rank):
        part = Part(rank, 2)
        if kind == "images":
            return ImageLoader(in_uneven_files(images, 1), 16, 2, part=part)
        return CodeLoader(in_uneven_files(codes, 3), 2, 3, part=part)

    straight = [list(islice(loader(rank), 18)) for rank in range(2)]
    stopped = [loader(rank) for rank in range(2)]
    for one in stopped:
        list(islice(one, taken))
    assert taken < 7 or stopped[0].epoch != stopped[1].epoch
    for rank in range(2):
        for saved in stopped:
            resumed = loader(rank)
            resumed.load_state_dict(saved.state_dict())
            assert resumed.state_dict() == stopped[rank].state_dict()
            assert same(list(islice(resumed, 18 - taken)), straight[rank][taken:])


def test_workers_do_not_matter(images):
    alone, helped = (islice(ImageLoader(images, 16, 4, workers=workers), 7) for workers in (0, 2))
    assert same(list(alone), list(helped))


def test_the_place_does_not_depend_on_workers_that_run_ahead(images):
    stopped = ImageLoader(images, 16, 4, workers=2)
    for _ in islice(stopped, 6):  # into the second epoch of five batches
        pass
    assert stopped.state_dict() == {"epoch": 1, "examples": 4}


@settings(deadline=None, max_examples=50)
@given(
    num_images=st.integers(1, 60),
    batch_size=st.integers(1, 5),
    count=st.integers(1, 5),
    other_count=st.integers(1, 5),
    taken=st.integers(0, 8),
    shuffle=st.booleans(),
)
def test_processes_share_each_batch_of_one_and_their_number_may_change(
    num_images, batch_size, count, other_count, taken, shuffle
):
    """Row r of a global batch goes to process r modulo the number of processes, before and after a resume."""
    global_batch_size = batch_size * count * other_count
    if num_images < global_batch_size:
        num_images += global_batch_size
    rows = Dataset.from_dict({"codes": [[number] for number in range(num_images)]})

    def loaders(count):
        arguments = {"batch_size": global_batch_size // count, "shuffle": shuffle, "seed": 3}
        return [CodeLoader(rows, part=Part(index, count), **arguments) for index in range(count)]

    def global_batches(loaders, number):
        shares = zip(*(islice(loader, number) for loader in loaders), strict=True)
        return [torch.stack([batch["codes"] for batch in share], 1).flatten().tolist() for share in shares]

    expected = global_batches(loaders(1), taken + 2)
    first, second = loaders(count), loaders(other_count)
    assert global_batches(first, taken) == expected[:taken]
    states = [loader.state_dict() for loader in first]
    assert all(state == states[0] for state in states)
    for loader in second:
        loader.load_state_dict(states[0])
    assert global_batches(second, 2) == expected[taken:]


def test_a_place_within_a_batch_is_refused(images):
    loader = ImageLoader(images, 16, 4, part=Part(0, 2))
    with pytest.raises(ValueError, match="12 examples into an epoch, which is no multiple of 8"):
        loader.load_state_dict({"epoch": 0, "examples": 12})
    stream = ImageLoader(streaming(images), 16, 4, part=Part(0, 2))
    assert stream.state_dict()["processes"] == 2
    with pytest.raises(ValueError, match="a stream in 2 shares, and there are now 1"):
        ImageLoader(streaming(images), 16, 8, part=Part()).load_state_dict(stream.state_dict())


def test_workers_decode_ahead_and_end_with_the_loop(images):
    with pytest.raises(RuntimeError, match="the loop failed"):
        for number, _ in enumerate(ImageLoader(images, 16, 4, workers=2)):
            assert len(multiprocessing.active_children()) == 2
            if number == 2:
                raise RuntimeError("the loop failed")
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not multiprocessing.active_children()
    loader = ImageLoader(images, 16, 4, workers=1)
    taken = []
    loader.source.take = lambda numbers, take=loader.source.take: taken.append(numbers) or take(numbers)
    with closing(iter(loader)) as batches:
        next(batches)
        assert len(taken) == 3  # the next two batches are on their way before anybody asks for them
    assert not multiprocessing.active_children()


def test_a_worker_that_was_killed_is_one_sentence(images):
    """From the loop over the batches, not from wherever the run is when torch notices."""
    with pytest.raises(OSError, match="A worker process ended without an answer; .* fewer workers"):
        for _ in ImageLoader(images, 16, 4, workers=2):
            for worker in multiprocessing.active_children():
                worker.kill()
                worker.join()


def test_a_signal_to_every_process_of_a_job_does_not_end_a_worker(images):
    expected = list(islice(ImageLoader(images, 16, 4), 8))
    next(iter(ImageLoader(images, 16, 4, workers=1)))
    forkserver = SimpleNamespace(pid=multiprocessing.forkserver._forkserver._forkserver_pid)
    ended = threading.Event()

    def send_signals():
        while not ended.wait(0.01):
            for worker in (*multiprocessing.active_children(), forkserver):
                for number in (signal.SIGINT, signal.SIGTERM):
                    with suppress(ProcessLookupError):
                        os.kill(worker.pid, number)

    sender = threading.Thread(target=send_signals)
    sender.start()
    try:
        assert same(list(islice(ImageLoader(images, 16, 4, workers=2), 8)), expected)
    finally:
        ended.set()
        sender.join()


def test_an_error_in_a_worker_is_as_short_as_without_workers(images):
    messages = []
    for workers in (0, 1):
        with pytest.raises(ValueError, match="does not fit into 8 x 8") as error:
            next(iter(ImageLoader(images, 8, 4, resize_mode="pad", workers=workers)))
        messages.append(str(error.value))
    assert messages[0] == messages[1] and "Traceback" not in messages[0]


def test_loading_leaves_the_random_state_of_the_run_alone(images):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    for workers in (0, 1):
        next(iter(ImageLoader(images, 16, 4, workers=workers)))
    assert torch.equal(torch.rand(3), expected)


def test_batches_lie_in_pinned_memory_where_there_is_a_cuda_device(images, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(pinned))
    monkeypatch.setattr(resumable, "DataLoader", lambda *args, pin_memory, **kwargs: pinned.append(pin_memory) or [])
    for _ in range(2):
        list(ImageLoader(images, 16, 4))
    assert pinned == [False, True]


SCRIPT = """
import multiprocessing, os, signal
from datasets import load_from_disk
from titok_hf.data.loaders import ImageLoader

if __name__ == "__main__":
    batches = iter(ImageLoader(load_from_disk({path!r}), 16, 4, workers=1))
    print(next(batches)["pixels"].shape)
    {end}
"""


def run_with_open_loader(images, folder, end):
    """A program that ends while its loader is open."""
    images.save_to_disk(folder / "images")
    (folder / "script.py").write_text(SCRIPT.format(path=str(folder / "images"), end=end))
    command = [sys.executable, str(folder / "script.py")]
    return subprocess.run(command, capture_output=True, text=True, timeout=180)


def test_a_program_ends_although_its_loader_is_open(images, tmp_path):
    ended = run_with_open_loader(images, tmp_path, end="")
    assert ended.returncode == 0 and "[4, 3, 16, 16]" in ended.stdout and not ended.stderr, ended.stderr


def runs(pid):
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks processes up in /proc")
def test_workers_end_with_a_program_that_is_killed(images, tmp_path):
    pids = "*(worker.pid for worker in multiprocessing.active_children())"
    end = f"print({pids}, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    ended = run_with_open_loader(images, tmp_path, end)
    pids = ended.stdout.splitlines()[-1].split()
    assert ended.returncode == -signal.SIGKILL and len(pids) == 1
    deadline = time.monotonic() + 20
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, pids))


def test_padding_keeps_the_pixels_on_black(images):
    loader = ImageLoader(images, 48, batch_size=5, flip=False, shuffle=False, resize_mode="pad")
    for number, pixels in enumerate(next(iter(loader))["pixels"]):
        image = np.asarray(picture(number)).transpose(2, 0, 1)
        top, left = (48 - image.shape[1]) // 2, (48 - image.shape[2]) // 2
        inside = pixels[:, top : top + image.shape[1], left : left + image.shape[2]]
        assert np.array_equal(inside, image) and pixels.sum() == image.sum(dtype=np.int64)
    with pytest.raises(ValueError, match="does not fit into 32 x 32"):
        next(iter(ImageLoader(images, 32, 5, resize_mode="pad")))
    with pytest.raises(ValueError, match="resize_mode is 'stretch'"):
        ImageLoader(images, 32, 5, resize_mode="stretch")


def test_labels_are_optional_but_checked(images):
    assert set(next(iter(ImageLoader(images.remove_columns("label"), 16, 4)))) == {"pixels"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["images", "codes"])
@pytest.mark.parametrize(
    ("label", "feature", "message"),
    [
        (None, ClassLabel(num_classes=3), "it has no label"),
        (3, ClassLabel(num_classes=3), r"the label is 3, which is not in \[0, 3\)"),
        (-1, ClassLabel(num_classes=3), "the label is -1"),
        (-1, Value("int64"), "the label is -1, which is no class"),
    ],
)
def test_a_label_that_is_no_class_stops_its_batch(label, feature, message, kind, stream, images, codes):
    """On the CPU: a GPU would read past the classes."""
    rows = images.select(range(4)) if kind == "images" else codes.filter(lambda view: view == 0, input_columns="view")
    rows = rows.select(range(4)).remove_columns("label").add_column("label", [0, 1, 2, label])
    rows.info.features["label"] = feature
    rows = streaming(rows) if stream else rows
    options = {"batch_size": 1, "shuffle": False}
    loader = ImageLoader(rows, 16, **options) if kind == "images" else CodeLoader(rows, num_views=1, **options)
    batches = iter(loader)
    assert [next(batches)["label"].item() for _ in range(3)] == [0, 1, 2]
    name = r"Image 3 \(0003.png\)" if kind == "images" else "Row 3"
    with pytest.raises(ValueError, match=f"{name} cannot be used: {message}"):
        next(batches)


@pytest.mark.parametrize("stream", [False, True])
def test_processes_share_an_epoch(codes, stream):
    dataset = streaming(codes) if stream else codes
    seen = []
    for index in range(2):
        loader = CodeLoader(dataset, batch_size=1, num_views=3, part=Part(index, 2), seed=5)
        seen.append([])
        for batch in loader:
            if loader.epoch or loader.num_batches > 11:
                break
            seen[-1].append(batch["codes"][0, 0].item())
    assert set(seen[0]).isdisjoint(seen[1])
    if not stream:
        assert len(seen[0]) == len(seen[1]) == 11  # equally many, so that no process waits for another
        assert len({*seen[0], *seen[1]}) == 22


def test_an_epoch_has_one_view_of_each_image_and_the_next_has_others(codes):
    for dataset in (codes, streaming(codes)):
        loader = CodeLoader(dataset, batch_size=23, num_views=3)
        epochs = [batch["codes"] for batch in islice(loader, 20)]
        assert all(sorted(epoch[:, 0].tolist()) == list(range(23)) for epoch in epochs)
        views = torch.stack([epoch[epoch[:, 0].argsort(), 1] for epoch in epochs])
        assert all(len(views[:, image].unique()) == 3 for image in range(23))
        assert epochs[0].dtype == torch.int64


@pytest.mark.parametrize("stream", [False, True])
def test_each_epoch_has_its_own_order(codes, stream):
    rows = codes.filter(lambda view: view == 0, input_columns="view")
    loader = CodeLoader(streaming(rows) if stream else rows, batch_size=23)
    first, second = (batch["codes"][:, 0].tolist() for batch in islice(loader, 2))
    assert sorted(first) == sorted(second) == list(range(23))
    assert first != second


def test_kl_latents_come_as_float32():
    features = Features({"latents": List(List(Value("float16"), length=2), length=3), "view": Value("int16")})
    rows = {"latents": np.full((4, 3, 2), 0.5, dtype=np.float16).tolist(), "view": [0] * 4}
    batch = next(iter(CodeLoader(Dataset.from_dict(rows, features=features), batch_size=4)))
    assert batch["latents"].dtype == torch.float32 and batch["latents"].shape == (4, 3, 2) and "label" not in batch


def test_bad_input_is_named(images, codes):
    with pytest.raises(ValueError, match="not 2 views of each image in order; the column `view` goes up to 2"):
        CodeLoader(codes, batch_size=4, num_views=2)
    with pytest.raises(ValueError, match="not 3 views"):
        CodeLoader(codes.shuffle(seed=0), batch_size=4)
    with pytest.raises(ValueError, match="fewer than 24 examples"):
        next(iter(ImageLoader(images, 16, batch_size=24)))
    with pytest.raises(ValueError, match="batch_size is 0"):
        ImageLoader(images, 16, batch_size=0)
    broken = Dataset.from_dict(
        {"image": [{"bytes": b"no picture", "path": None}]}, features=Features({"image": Image()})
    )
    with pytest.raises(ValueError, match="Image 0 cannot be used: it is no image"):
        next(iter(ImageLoader(broken, 16, batch_size=1)))


@pytest.mark.parametrize("workers", [0, 1])
def test_another_image_takes_the_place_of_a_broken_one(workers, images, caplog):
    """The others stay where they are; the place of a loader knows what was skipped, so that it is named once."""
    rows = [row | {"image": {"bytes": b"no picture", "path": "bad.png"}} if n == 1 else row for n, row in
            enumerate(images.cast_column("image", Image(decode=False)).select(range(6)))]  # fmt: skip
    broken = Dataset.from_list(rows, features=images.features)
    options = {"batch_size": 3, "shuffle": False, "flip": False, "workers": workers}
    whole = next(iter(ImageLoader(images, 16, **options)))
    loader = ImageLoader(broken, 16, skip_broken=True, **options)
    first, _, again = islice(loader, 3)
    assert torch.equal(first["pixels"][[0, 2]], whole["pixels"][[0, 2]]) and first["label"].tolist() == [0, 2, 2]
    assert torch.equal(first["pixels"][1], first["pixels"][2]) and again["label"].tolist() == [0, 2, 2]
    (reason,) = loader.skipped
    assert "Image 1 (bad.png) cannot be used: it is no image" in reason and caplog.text.count("bad.png") == 1
    resumed = ImageLoader(broken, 16, skip_broken=True, **options)
    resumed.load_state_dict(loader.state_dict())
    next(iter(resumed))
    assert resumed.skipped == loader.skipped and caplog.text.count("bad.png") == 1
    with pytest.raises(ValueError, match=r"Image 1 \(bad.png\) cannot be used"):
        next(iter(ImageLoader(broken.select([1]), 16, batch_size=1, skip_broken=True)))
