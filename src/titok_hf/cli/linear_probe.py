"""`titok-hf evaluate linear-probe`: how much of the class the frozen tokens tell."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..extras import check_extra
from .console import progress_bar
from .evaluate import show
from .images import check_can_be_written
from .models import load_pipeline, model_name
from .options import AsJson, BatchSize, Device

Data = Annotated[
    str, typer.Argument(metavar="DATA", help="Folder or Hub id of a data set of images.", show_default=False)
]
ResizeMode = Annotated[
    Literal["resize", "pad"], typer.Option(help="How images get the model's size: resized, or padded with black.")
]
Report = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write the numbers to this JSON file.", show_default=False)
]


def linear_probe(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder or Hub id of a tokenizer or a pipeline.", show_default=False)
    ],
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
    resize_mode: ResizeMode = "resize",
    output: Report = None,
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
    from titok_hf.data.images import evenly_spaced, image_batches
    from titok_hf.data.training_data import class_names, open_images
    from titok_hf.evaluation.features import weights_digest
    from titok_hf.evaluation.linear_probe import linear_probe as probe
    from titok_hf.evaluation.numbers import Convention
    from titok_hf.evaluation.numbers import Report as Numbers

    opened: list[Any] = [open_images(data, split) for split in (train_split, test_split)]
    names = class_names(opened[0])
    train, test = (evenly_spaced(*each) for each in zip(opened, (num_train, num_test), strict=True))
    size = pipe.tokenizer.config.image_size
    with progress_bar() as bar:
        task = bar.add_task("encoding", total=len(train) + len(test))

        def batches(dataset: Any) -> Any:
            for images, labels in image_batches(dataset, size, resize_mode, batch_size):
                yield images, labels
                bar.advance(task, len(images))

        results = probe(pipe.tokenizer.eval(), batches(train), batches(test), len(names), l2)
    convention = Convention(
        crop=resize_mode,
        split=test_split,
        image_size=(size, size),
        num_images=len(test),
        reference=model_name(data),
        method=f"logistic regression on standardised features, L2 {l2:g}, solved by L-BFGS, trained on "
        f"{len(train)} images of split {train_split}",
    )
    warnings = tuple(
        f"The classifier on {each.features} tokens, {each.pooling}, did not reach its minimum. Raise --l2."
        for each in results
        if not each.converged
    )
    config = pipe.tokenizer.config
    conditions = {
        "model": f"{model_name(model)}, weights {weights_digest(pipe.tokenizer)}",
        "num_latent_tokens": config.num_latent_tokens,
        "classes": len(names),
    }
    values = {f"probe_accuracy_{each.features}_{each.pooling}": each.test_accuracy for each in results}
    details = {"probes": [asdict(each) for each in results]}
    show(Numbers(values, convention, conditions, details, warnings), output, as_json)


__all__ = ["linear_probe"]
