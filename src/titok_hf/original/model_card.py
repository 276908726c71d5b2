"""Model cards of converted checkpoints. What was published is called published; nothing was measured again here."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from titok_hf.atomic_files import write_atomically

from .released import ReleasedGenerator, ReleasedTokenizer
from .verification import Verification

_TOKENIZER_CODE = """from titok_hf import TiTokImageProcessor, TiTokModel

model = TiTokModel.from_pretrained("{here}")
pixel_values = TiTokImageProcessor.from_pretrained("{here}")("picture.png", return_tensors="pt").pixel_values
pixels = model.decode(latents=model.encode(pixel_values).latents).pixel_values"""

_PIPELINE_CODE = """from titok_hf import TiTokPipeline

pipe = TiTokPipeline.from_pretrained("{here}")
image = pipe("golden retriever").images[0]"""

_GENERATOR_CODE = """from titok_hf import MaskGitScheduler, MaskGitTransformer1DModel

generator = MaskGitTransformer1DModel.from_pretrained("{here}")
scheduler = MaskGitScheduler.from_pretrained("{here}")"""

_VQGAN_CODE = """from titok_hf import MaskGitVQGANModel

model = MaskGitVQGANModel.from_pretrained("{here}")
codes = model.encode(pixel_values).codes"""

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

- Yu et al., An Image is Worth 32 Tokens for Reconstruction and Generation, arXiv 2406.07550
- Kim et al., Democratizing Text-to-Image Masked Generative Models with Compact Text-Aware One-Dimensional Tokens,
  arXiv 2501.07730 (the single-stage tokenizers)
- Chang et al., MaskGIT: Masked Generative Image Transformer, arXiv 2202.04200
"""

_UNKNOWN_QUALITY = "No published numbers are known for this checkpoint, and none were measured."


def write_card(
    folder: Path,
    *,
    kind: str,
    variant: str | None,
    source: str,
    verifications: list[Verification],
    tokenizer: ReleasedTokenizer | None = None,
    generator: ReleasedGenerator | None = None,
) -> None:
    """
    Write `README.md` into a folder.

    Args:
        kind: `"tokenizer"`, `"generator"`, `"pipeline"` or `"vqgan"`.
        variant: name of the released checkpoint, if it is one.
        source: where the checkpoint came from.
        verifications: what the conversion found equal.
        tokenizer, generator: what was published about them.
    """
    titles = {
        "tokenizer": "TiTok tokenizer",
        "generator": "MaskGIT generator for TiTok",
        "pipeline": "TiTok pipeline: tokenizer and generator",
        "vqgan": "MaskGIT-VQGAN",
    }
    descriptions = {
        "tokenizer": "Turns a square image into a short sequence of tokens, and back.",
        "generator": "Predicts masked TiTok codes of an image from the others and an ImageNet class. "
        "`scheduler_config.json` holds the sampler settings of the published benchmark.",
        "pipeline": "Images from ImageNet class names, images to codes and back. A plain call uses the sampler "
        "settings of the published benchmark.",
        "vqgan": "The two-dimensional image tokenizer of MaskGIT, teacher and pixel decoder of the two-stage models.",
    }
    codes = {
        "tokenizer": _TOKENIZER_CODE,
        "generator": _GENERATOR_CODE,
        "pipeline": _PIPELINE_CODE,
        "vqgan": _VQGAN_CODE,
    }
    data = ModelCardData(
        library_name="diffusers" if kind in ("generator", "pipeline") else "transformers",
        pipeline_tag="unconditional-image-generation" if kind == "pipeline" else "image-feature-extraction",
        license="apache-2.0",
        tags=["titok", "titok-hf", "image-tokenizer"],
        datasets=["ILSVRC/imagenet-1k"],
    )
    body = _BODY.format(
        title=titles[kind] + (f", {variant}" if variant else ""),
        description=descriptions[kind],
        code=codes[kind].format(here="."),
        source=source,
        verification="\n".join(f"- verified: {verification}" for verification in verifications),
        quality=_quality(tokenizer, generator),
    )
    write_atomically(folder / "README.md", str(ModelCard(f"---\n{data.to_yaml()}\n---\n{body}")).encode())


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


__all__ = ["write_card"]
