"""Model cards of converted checkpoints. What was published is called published; nothing was measured again here."""

import os
from collections.abc import Sequence
from pathlib import Path

from titok_hf.checkpoints.cards import CardContent, Measured, write_model_card

from .released import ReleasedGenerator, ReleasedTokenizer
from .verification import Verification

_IMAGENET = {"dataset": "ILSVRC/imagenet-1k", "dataset_name": "ImageNet-1k 256 x 256"}
_LIMITS = (
    "Square pictures of the kind that ImageNet has: single objects, animals and scenes in photographs. Faces, text "
    "and fine patterns suffer most when a picture is described by so few tokens. Generated images repeat what "
    "ImageNet shows, its biases included. Its terms allow research that is not commercial."
)


def write_card(
    folder: Path,
    *,
    destination: str | os.PathLike,
    repo_id: str | None,
    source: str,
    verifications: Sequence[Verification],
    variant: str | None = None,
    tokenizer: ReleasedTokenizer | None = None,
    generator: ReleasedGenerator | None = None,
) -> Path:
    """
    Write the card of a converted checkpoint, unless a person edited the one at its destination.

    Args:
        folder: the converted checkpoint.
        destination: the folder that it is going to become.
        repo_id: where it will be on the Hub, if anywhere.
        source: what was converted, as people know it: a Hub id or a file's name.
        verifications: what was found equal, of each model.
        variant: the released checkpoint that it is, if it is one.
        tokenizer, generator: what is known of the released checkpoints in it.
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
    text = f"Converted from {source} to the format of titok-hf, without a change of any number."
    if has_sampler:
        text += " The sampler settings are those of the original's benchmark."
    return text + "\n\n" + "\n".join(f"- verified: {verification}" for verification in verifications)


def _published(tokenizer: ReleasedTokenizer | None, generator: ReleasedGenerator | None) -> list[Measured]:
    """The published numbers: of 50,000 images each."""
    results = []
    if tokenizer is not None:
        name, split = "FID of reconstructions (rFID)", "validation"
        results.append(Measured(name, tokenizer.rfid, "fid", split=split, published_in=tokenizer.paper, **_IMAGENET))
    if generator is not None:
        name, paper = "FID of generated images (gFID)", generator.paper
        results.append(Measured(name, generator.gfid, "fid", published_in=paper, **_IMAGENET))
        if generator.inception_score is not None:
            name, score = "Inception Score of generated images", generator.inception_score
            results.append(Measured(name, score, "inception_score", published_in=paper, **_IMAGENET))
    return results


__all__ = ["write_card"]
