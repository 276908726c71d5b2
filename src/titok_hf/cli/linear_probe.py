"""`titok-hf evaluate linear-probe`: how much of the class the frozen tokens tell."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..extras import check_extra
from .console import progress_bar
from .evaluate import show
from .evaluate_models import CropOption, Data, Lossy, ModelArgument, model_identity
from .images import check_can_be_written
from .models import load_pipeline
from .options import AsJson, BatchSize, Device

if TYPE_CHECKING:
    from titok_hf.evaluation.images import EvaluationImages
    from titok_hf.evaluation.linear_probe import ProbeResult
    from titok_hf.evaluation.numbers import Report


def linear_probe(
    model: ModelArgument,
    data: Data,
    train_split: Annotated[str, typer.Option(help="Split that the classifiers learn from.")] = "train",
    test_split: Annotated[str, typer.Option(help="Split whose classes they name.")] = "test",
    num_train: Annotated[
        int | None, typer.Option(min=2, help="Images to learn from, evenly spaced; by default all.")
    ] = None,
    num_test: Annotated[
        int | None, typer.Option(min=1, help="Images to test on, evenly spaced; by default all.")
    ] = None,
    l2: Annotated[float, typer.Option(min=0, help="Weight of the penalty on the classifiers' weights.")] = 1e-4,
    crop: CropOption = "center",
    lossy: Lossy = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the numbers to this JSON file.", show_default=False)
    ] = None,
    batch_size: BatchSize = 100,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """
    Train linear classifiers on the frozen tokens of labelled images, and measure their accuracy on others.

    Four of them: on the tokens that leave the encoder and on the quantised ones, each as their mean and concatenated.

    **Example**

    `titok-hf evaluate linear-probe my-tokenizer my-images --num-train 20000`
    """
    check_extra("eval", "datasets", "torchmetrics")
    if output is not None:
        check_can_be_written(output)
    pipe = load_pipeline(model, device)
    from titok_hf.evaluation.images import EvaluationImages
    from titok_hf.evaluation.linear_probe import linear_probe as probe

    config = pipe.tokenizer.config
    train, test = (
        EvaluationImages(data, split, config.image_size, crop, limit, lossy)
        for split, limit in ((train_split, num_train), (test_split, num_test))
    )
    if train.label_names is None:
        raise ValueError(f"{data} has no labels in the split {train_split!r}, and a probe learns to name classes.")
    names = train.label_names
    with progress_bar() as bar:
        task = bar.add_task("encoding", total=len(train) + len(test))
        learnt, tested = (each.batches(batch_size, lambda count: bar.advance(task, count)) for each in (train, test))
        results = probe(pipe.tokenizer.eval(), learnt, tested, len(names), l2)
    conditions = {
        "model": model_identity(pipe, model),
        "num_latent_tokens": config.num_latent_tokens,
        "classes": len(names),
    }
    show(_report(results, train, test, l2, conditions), output, as_json)


def _report(
    results: list[ProbeResult], train: EvaluationImages, test: EvaluationImages, l2: float, conditions: dict[str, Any]
) -> Report:
    from titok_hf.evaluation.numbers import Convention, Report

    convention = Convention(
        crop=test.crop,
        split=test.split,
        image_size=(test.image_size, test.image_size),
        num_images=len(test),
        reference=test.name,
        method=f"logistic regression on standardised features, L2 {l2:g}, solved by L-BFGS, trained on "
        f"{len(train)} images of split {train.split}",
    )
    warnings = tuple(
        f"The classifier on {each.features} tokens, {each.pooling}, did not reach its minimum. Raise --l2."
        for each in results
        if not each.converged
    )
    values = {f"probe_accuracy_{each.features}_{each.pooling}": each.test_accuracy for each in results}
    return Report(values, convention, conditions, {"probes": [asdict(each) for each in results]}, warnings)


__all__ = ["linear_probe"]
