"""Model cards of converted checkpoints. Their results are the published ones."""

import os
from collections.abc import Sequence
from pathlib import Path

from titok_hf.checkpoints.cards import CardContent, Measured, write_model_card

from .released import Released
from .verification import Verification

_IMAGENET = {"dataset": "ILSVRC/imagenet-1k", "dataset_name": "ImageNet-1k 256 x 256"}
_LIMITS = (
    "Square images like those of ImageNet: photographs of single objects, animals and scenes. With so few tokens, "
    "faces, text and fine patterns lose most. Generated images have the biases of ImageNet, whose terms allow "
    "non-commercial research only."
)


def write_card(
    folder: Path,
    *,
    destination: str | os.PathLike,
    repo_id: str | None,
    source: str,
    verifications: Sequence[Verification],
    variant: str | None = None,
    tokenizer: Released | None = None,
    generator: Released | None = None,
) -> Path:
    """
    Write the card of the converted checkpoint in `folder`, unless a person edited the one in `destination`, its final
    folder. `source` is a Hub id or the name of a file.
    """
    released = [checkpoint for checkpoint in (tokenizer, generator) if checkpoint is not None]
    name = (repo_id or Path(destination).resolve().name).split("/")[-1]
    content = CardContent(
        title=f"{name} ({variant})" if variant and variant not in name.replace("-", "_") else name,
        repo_id=repo_id,
        license="apache-2.0" if released else None,
        datasets=[_IMAGENET["dataset"]] if released else [],
        base_models=[checkpoint.repository for checkpoint in released],
        results=_published(tokenizer, generator),
        source=_source(source, verifications, has_sampler=generator is not None),
        limits=_LIMITS if released else None,
    )
    return write_model_card(folder, content, destination)


def _source(source: str, verifications: Sequence[Verification], has_sampler: bool) -> str:
    text = f"Converted from {source} to the format of titok-hf. All weights are unchanged."
    if has_sampler:
        text += " The sampler settings are those of the original's benchmark."
    return text + "\n\n" + "\n".join(f"- verified: {verification}" for verification in verifications)


def _published(tokenizer: Released | None, generator: Released | None) -> list[Measured]:
    results = []
    if tokenizer is not None:
        name, split = "FID of reconstructions (rFID)", "validation"
        results.append(Measured(name, tokenizer.fid, "fid", split=split, published_in=tokenizer.paper, **_IMAGENET))
    if generator is not None:
        name, paper = "FID of generated images (gFID)", generator.paper
        results.append(Measured(name, generator.fid, "fid", published_in=paper, **_IMAGENET))
        if generator.inception_score is not None:
            name, score = "Inception Score of generated images", generator.inception_score
            results.append(Measured(name, score, "inception_score", published_in=paper, **_IMAGENET))
    return results
