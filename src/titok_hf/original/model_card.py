"""Model cards of converted checkpoints. What was published is called published; nothing was measured again here."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCardData

from titok_hf.atomic_files import write_atomically

from .released import ReleasedGenerator, ReleasedTokenizer
from .verification import Verification


@dataclass(frozen=True)
class CardTexts:
    """What a card says about any checkpoint of one kind; `code` has a place for the checkpoint's name."""

    title: str
    description: str
    code: str
    library: str
    task: str


TOKENIZER = CardTexts(
    title="TiTok tokenizer",
    description="Turns a square image into a short sequence of tokens, and back.",
    code="""from titok_hf import TiTokImageProcessor, TiTokModel

model = TiTokModel.from_pretrained("{here}")
pixel_values = TiTokImageProcessor.from_pretrained("{here}")("picture.png", return_tensors="pt").pixel_values
pixels = model.decode(latents=model.encode(pixel_values).latents).pixel_values""",
    library="transformers",
    task="image-feature-extraction",
)

GENERATOR = CardTexts(
    title="MaskGIT generator for TiTok",
    description="Predicts masked TiTok codes of an image from the others and a class. `scheduler_config.json` holds "
    "the settings with which the original is sampled.",
    code="""from titok_hf import MaskGitScheduler, MaskGitTransformer1DModel

generator = MaskGitTransformer1DModel.from_pretrained("{here}")
scheduler = MaskGitScheduler.from_pretrained("{here}")""",
    library="diffusers",
    task="unconditional-image-generation",
)

PIPELINE = CardTexts(
    title="TiTok pipeline",
    description="Images from class names, images to codes and back. A plain call uses the settings with which the "
    "original is sampled.",
    code="""from titok_hf import TiTokPipeline

pipe = TiTokPipeline.from_pretrained("{here}")
image = pipe("golden retriever").images[0]""",
    library="diffusers",
    task="unconditional-image-generation",
)

VQGAN = CardTexts(
    title="MaskGIT-VQGAN",
    description="The two-dimensional image tokenizer of MaskGIT: teacher and pixel decoder of two-stage TiTok models.",
    code="""from titok_hf import MaskGitVQGANModel

model = MaskGitVQGANModel.from_pretrained("{here}")
codes = model.encode(pixel_values).codes""",
    library="transformers",
    task="image-feature-extraction",
)

_BODY = """
# {title}

{description}

```python
{code}
```

## Source

Converted from {source} to the format of titok-hf, without a change of any number.

{verification}

## Quality

{quality}

## References

- An Image is Worth 32 Tokens for Reconstruction and Generation, arXiv 2406.07550
- Democratizing Text-to-Image Masked Generative Models with Compact Text-Aware One-Dimensional Tokens, arXiv 2501.07730
  (the single-stage tokenizers)
- MaskGIT: Masked Generative Image Transformer, arXiv 2202.04200
"""

_UNKNOWN_QUALITY = "No published numbers are known for this checkpoint, and none were measured."


def write_card(
    folder: Path,
    texts: CardTexts,
    *,
    here: str,
    source: str,
    verifications: list[Verification],
    variant: str | None = None,
    tokenizer: ReleasedTokenizer | None = None,
    generator: ReleasedGenerator | None = None,
) -> None:
    """
    Write `README.md` into a folder.

    Args:
        texts: `TOKENIZER`, `GENERATOR`, `PIPELINE` or `VQGAN`.
        here: what a user will call the folder: a Hub id or its name.
        source: where the checkpoint came from.
        verifications: what the conversion found equal.
        variant: name of the released checkpoint, if it is one.
        tokenizer, generator: what was published about them.
    """
    is_released = tokenizer is not None or generator is not None
    data = ModelCardData(
        library_name=texts.library,
        pipeline_tag=texts.task,
        tags=["titok", "titok-hf", "image-tokenizer"],
        license="apache-2.0" if is_released else None,
        datasets=["ILSVRC/imagenet-1k"] if is_released else None,
    )
    body = _BODY.format(
        title=f"{texts.title}, {variant}" if variant else texts.title,
        description=texts.description,
        code=texts.code.format(here=here),
        source=source,
        verification="\n".join(f"- verified: {verification}" for verification in verifications),
        quality=_quality(tokenizer, generator),
    )
    write_atomically(folder / "README.md", f"---\n{data.to_yaml()}\n---\n{body}".encode())


def _quality(tokenizer: ReleasedTokenizer | None, generator: ReleasedGenerator | None) -> str:
    rows = []
    if tokenizer is not None:
        rows.append(("FID of reconstructions (rFID)", tokenizer.rfid))
    if generator is not None:
        rows.append(("FID of generated images (gFID)", generator.gfid))
        if generator.inception_score is not None:
            rows.append(("Inception Score of generated images", generator.inception_score))
    if not rows:
        return _UNKNOWN_QUALITY
    table = "\n".join(f"| {name} | {value} | published by the authors; not measured here |" for name, value in rows)
    return f"ImageNet-1k, 256 x 256, 50,000 images.\n\n| metric | value | source |\n|---|---|---|\n{table}"


__all__ = ["GENERATOR", "PIPELINE", "TOKENIZER", "VQGAN", "CardTexts", "write_card"]
