"""The words of a model card that depend on nothing but what the checkpoint is: introduction, Python, limits."""

from __future__ import annotations

import json

from .folders import Description, Kind

LIBRARY = "titok-hf"

_TASKS = {
    Kind.TOKENIZER: "image-feature-extraction",
    Kind.VQGAN: "image-feature-extraction",
    Kind.GENERATOR: "unconditional-image-generation",
}


def pipeline_tag(description: Description) -> str:
    """The Hub's task that comes nearest. It has none for class-conditional generation."""
    if description.kind is Kind.PIPELINE:
        return _TASKS[Kind.GENERATOR if description.transformer else Kind.TOKENIZER]
    return _TASKS[description.kind]


def tags(description: Description) -> list[str]:
    """What people search for on the Hub."""
    words = ["titok"]
    if description.tokenizer or description.kind is Kind.VQGAN:
        words.append("image-tokenizer")
    if description.transformer or description.kind is Kind.VQGAN:
        words.append("maskgit")
    if description.transformer:
        words.append("class-conditional")
    diffusers = description.kind in (Kind.PIPELINE, Kind.GENERATOR)
    transformers = description.kind is not Kind.GENERATOR
    return words + ["diffusers"] * diffusers + ["transformers"] * transformers


def papers(description: Description) -> dict[str, str]:
    """arXiv number -> title of what the checkpoint is made after."""
    titok = {"2406.07550": "An Image is Worth 32 Tokens for Reconstruction and Generation"}
    single_stage = {
        "2501.07730": "Democratizing Text-to-Image Masked Generative Models with Compact Text-Aware One-Dimensional "
        "Tokens"
    }
    maskgit = {"2202.04200": "MaskGIT: Masked Generative Image Transformer"}
    if description.kind is Kind.VQGAN:
        return maskgit
    is_single_stage = (description.tokenizer or {}).get("decoder_head") == "pixels"
    return titok | (single_stage if is_single_stage else {}) | (maskgit if description.transformer else {})


def introduction(description: Description) -> str:
    """What it does, with its numbers, in two or three sentences."""
    kind = description.kind
    if kind is Kind.VQGAN:
        return (
            "The two-dimensional image tokenizer of MaskGIT: a grid of codes for a picture, and back. It teaches "
            "two-stage TiTok tokenizers and draws their pixels."
        )
    if kind is Kind.GENERATOR:
        return (
            "A class-conditional MaskGIT transformer over TiTok codes: it predicts the masked codes of an image from "
            f"the others and a class, {_generator(description)}. Pictures need the tokenizer whose codes it knows."
        )
    sentences = [f"TiTok for pictures of {_pixels(description)}: {_tokens(description)} an image, and back."]
    if description.transformer:
        sentences.append(f"Its generator makes new images of {description.transformer['num_classes']:,} classes.")
    return " ".join(sentences)


def default_limits(description: Description) -> str:
    """Use and limits of a checkpoint of which no more is known than its sizes."""
    sentences = []
    if description.tokenizer:
        sentences.append(
            f"It takes square pictures of {_pixels(description)}; others are resized and cropped. What a picture "
            "shows beside the kind of images it was trained on is lost or comes back as something similar."
        )
    if description.transformer:
        sentences.append(
            f"It knows {description.transformer['num_classes']:,} classes and no text. Generated images repeat what "
            "the training images show, biases included."
        )
    sentences.append("Whoever publishes this checkpoint should say here what it was trained on and what it is for.")
    return " ".join(sentences)


def usage_code(description: Description, location: str) -> str:
    """
    Python that runs as it stands where titok-hf is installed, once the checkpoint is at `location`.

    Args:
        location: what `from_pretrained` is given, a Hub id or a folder.
    """
    location = in_python(location)
    if description.kind is Kind.PIPELINE:
        return _generate(description, location) if description.transformer else _reconstruct(description, location)
    if description.kind is Kind.GENERATOR:
        return _predict(description, location)
    return _encode(description, location)


def in_python(text: str) -> str:
    """A text as Python writes it, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _first_class(description: Description) -> str:
    """The first class as Python: its shortest name that names no other class, else its number."""
    from ..class_names import ClassNames  # which imports torch

    config = description.transformer or {}
    classes = ClassNames(description.classes, config["num_classes"])
    for number, text in list(description.classes.items())[:1]:
        for name in (text.split(",")[0].strip(), text):
            try:
                if classes.label_ids(name) == [number]:
                    return in_python(name)
            except ValueError:  # it names several
                continue
        return str(number)
    return "0"


def _generate(description: Description, location: str) -> str:
    return f"""import torch

from titok_hf import TiTokPipeline

pipe = TiTokPipeline.from_pretrained({location})
generator = torch.Generator().manual_seed(0)
images = pipe({_first_class(description)}, num_images_per_class=4, generator=generator).images
images[0].save("generated.png")

tokens = pipe.encode(images)                  # {_shape(description, 4)}; or pictures of yours: ["photo.jpg"]
pipe.decode(tokens)[0].save("decoded.png")"""


def _reconstruct(description: Description, location: str) -> str:
    code = f"""from titok_hf import TiTokPipeline
from titok_hf.bundled import example_images   # paths of pictures; take your own

pipe = TiTokPipeline.from_pretrained({location})
tokens = pipe.encode(example_images())"""
    return code if _draws_no_pixels(description) else f'{code}\npipe.decode(tokens)[0].save("decoded.png")'


def _encode(description: Description, location: str) -> str:
    model = "MaskGitVQGANModel" if description.kind is Kind.VQGAN else "TiTokModel"
    size = (description.tokenizer or {}).get("image_size", 256)
    if description.has_image_processor:
        processor = f"TiTokImageProcessorPil.from_pretrained({location})"
    else:
        processor = f"TiTokImageProcessorPil(size={size})   # none is saved here; take the one of the training"
    code = f"""import torch

from titok_hf import TiTokImageProcessorPil, {model}
from titok_hf.bundled import example_images   # paths of images; take your own

model = {model}.from_pretrained({location})
processor = {processor}
pixel_values = processor(example_images()[:4], return_tensors="pt").pixel_values
with torch.no_grad():
    latents = model.encode(pixel_values).latents"""
    if _draws_no_pixels(description):
        return code + "\n    logits = model.decode(latents=latents).logits   # over the codes of a MaskGIT-VQGAN"
    return f"""{code}
    decoded = model.decode(latents=latents).pixel_values
processor.post_process(decoded)[0].save("decoded.png")"""


def _predict(description: Description, location: str) -> str:
    scheduler = f"\nscheduler = MaskGitScheduler.from_pretrained({location})" if description.scheduler else ""
    names = "MaskGitScheduler, MaskGitTransformer1DModel" if scheduler else "MaskGitTransformer1DModel"
    return f"""import torch

from titok_hf import {names}

generator = MaskGitTransformer1DModel.from_pretrained({location}){scheduler}
masked = torch.full((1, generator.config.num_latent_tokens), generator.mask_token_id)
with torch.no_grad():
    logits = generator(masked, class_labels=torch.tensor([0])).logits   # (1, num_latent_tokens, codebook_size)"""


def _draws_no_pixels(description: Description) -> bool:
    """Whether the tokenizer is one before its second stage, which ends in the logits of proxy codes."""
    config = description.tokenizer or {}
    return config.get("decoder_head") == "proxy_codes" and config.get("pixel_decoder") is None


def _pixels(description: Description) -> str:
    size = (description.tokenizer or {})["image_size"]
    return f"{size} x {size} pixels"


def _tokens(description: Description) -> str:
    config = description.tokenizer or {}
    if not description.has_codebook:
        return f"{config['num_latent_tokens']} vectors of {config['codebook_dim']} numbers"
    return f"{config['num_latent_tokens']} codes of {config['codebook_size']:,}"


def _generator(description: Description) -> str:
    config = description.transformer or {}
    return f"{config['num_latent_tokens']} codes of {config['codebook_size']:,} and {config['num_classes']:,} classes"


def _shape(description: Description, batch_size: int) -> str:
    config = description.tokenizer or {}
    if not description.has_codebook:
        return f"({batch_size}, {config['num_latent_tokens']}, {config['codebook_dim']}) float"
    return f"({batch_size}, {config['num_latent_tokens']}) int64"


__all__ = ["LIBRARY", "default_limits", "in_python", "introduction", "papers", "pipeline_tag", "tags", "usage_code"]
