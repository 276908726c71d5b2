"""
What an evaluation costs beside the forward passes of its network: statistics, Fréchet distances, precision and recall.

    python benchmarks/evaluation.py cost --num-images 10000

The network has random weights, which take as long as the published ones. Forward passes are timed on a few batches and
counted for all images; everything else is run in full, on features of random numbers.

And the peak of resident memory of precision and recall of 50,000 samples against a reference:

    python benchmarks/evaluation.py memory --num-images 50000 --num-reference 10000
"""

import argparse
import resource
import time

import torch

from titok_hf.evaluation.adm import precision_and_recall
from titok_hf.evaluation.features import FeatureNetwork, FeatureSet, set_metrics
from titok_hf.evaluation.inception import NUM_CLASSES, NUM_POOLED, NUM_SPATIAL, InceptionFeatures, InceptionNetwork


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "memory"))
    parser.add_argument("--num-images", type=int, default=10_000)
    parser.add_argument("--num-reference", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--timed-batches", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    (cost if options.what == "cost" else memory)(options)


def memory(options: argparse.Namespace) -> None:
    """Prints the peak of this process, features included."""
    counts = (options.num_reference, options.num_images)
    start = now(options.device)
    precision_and_recall(*(torch.rand(count, NUM_POOLED, device=options.device) for count in counts))
    seconds, peak = now(options.device) - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"precision and recall of {counts[1]:,} against {counts[0]:,} images: {seconds:.0f} s, peak {peak:.2f} GB")


def cost(options: argparse.Namespace) -> None:
    """Prints the seconds of each part."""
    forward = forward_seconds(options.device, options.batch_size, options.timed_batches) * options.num_images
    steps = {"statistics": 0.0, "distances, precision and recall": 0.0}
    rng = torch.Generator(options.device).manual_seed(0)
    sets = [FeatureSet(), FeatureSet()]
    for features in sets:
        for start in range(0, options.num_images, options.batch_size):
            batch = random_features(min(options.batch_size, options.num_images - start), options.device, rng)
            start_time = now(options.device)
            features.update(batch)
            steps["statistics"] += now(options.device) - start_time
    steps["statistics"] /= 2  # forward passes are counted for one set too
    start_time = now(options.device)
    set_metrics(*sets, device=options.device)
    steps["distances, precision and recall"] = now(options.device) - start_time
    print(f"forward passes of {options.num_images:,} images: {forward:.1f} s")
    for name, seconds in steps.items():
        print(f"{name}: {seconds:.1f} s, {seconds / forward:.1%} of the forward passes")


def now(device: str) -> float:
    """Seconds, once the device has done all work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def forward_seconds(device: str, batch_size: int, num_batches: int) -> float:
    """Of one image."""
    network = FeatureNetwork(InceptionNetwork(), device)
    images = torch.randint(0, 256, (batch_size, 3, 256, 256), dtype=torch.uint8)
    network(images)  # the first pass prepares memory and kernels
    start = now(device)
    for _ in range(num_batches):
        network(images)
    return (now(device) - start) / (batch_size * num_batches)


def random_features(count: int, device: str, rng: torch.Generator) -> InceptionFeatures:
    """Features of random numbers, of Inception's shapes."""
    pooled, spatial, logits = (
        torch.rand(count, size, device=device, generator=rng) for size in (NUM_POOLED, NUM_SPATIAL, NUM_CLASSES)
    )
    return InceptionFeatures(pooled, spatial, logits.softmax(dim=-1))


if __name__ == "__main__":
    main()
