"""Typed recipes of the two trainers. Every number that shapes a run stands here or in the YAML that fills it."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class ImageDataConfig:
    """
    The images of a run, small enough to be decoded into memory once.

    Args:
        source: what `titok_hf.data.images.load_image_dataset` reads: a folder, a parquet file, a Hub id.
        image_size: side of the square images, in pixels.
        resize_mode: "resize" (shorter edge, centre crop) or "pad" (small pictures centred on black).
        train_split, test_split: names of the two splits.
        horizontal_flip: whether half of the training images are mirrored.
    """

    source: str
    image_size: int
    resize_mode: Literal["resize", "pad"] = "resize"
    train_split: str = "train"
    test_split: str = "test"
    horizontal_flip: bool = False


@dataclass
class OptimizationConfig:
    """
    AdamW, its schedule and its average. The learning rate counts optimiser steps, whatever the number of processes.

    Args:
        num_steps: optimiser steps of the whole run.
        batch_size: examples a process takes at once; the global batch is this times processes times
            `gradient_accumulation_steps`.
        gradient_accumulation_steps: batches a process adds up for one optimiser step.
        learning_rate: peak, reached after `warmup_steps` of linear growth; a half cosine then leads to
            `end_learning_rate`.
        betas, weight_decay: AdamW's; norms, biases and embedding-like parameters are not decayed.
        max_grad_norm: gradients of a larger global norm are scaled down to it.
        ema_decay: decay of the averaged weights, which are the ones that are saved as the model.
        mixed_precision: accelerate's.
        attn_implementation: "sdpa", or "eager", with which a small model trains 1.4 times as fast on a CPU in bf16.
    """

    num_steps: int
    batch_size: int
    learning_rate: float
    end_learning_rate: float = 1e-5
    warmup_steps: int = 10_000
    gradient_accumulation_steps: int = 1
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "gradient_accumulation_steps", "learning_rate", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"optimization.{name} is {getattr(self, name)}; it must be larger than 0.")


@dataclass
class CadenceConfig:
    """
    How often a run speaks and saves, in optimiser steps. A resumed run may change all of it.

    Args:
        log_every: a line and a tracker entry with losses, learning rate, gradient norm and images a second.
        evaluate_every: measures on the test images and a picture.
        checkpoint_every: the training state, and the averaged model in `from_pretrained` format.
        num_checkpoints: training states that are kept, the newest ones.
        num_test_images: test images that an evaluation looks at.
    """

    log_every: int = 100
    evaluate_every: int = 2_000
    checkpoint_every: int = 2_000
    num_checkpoints: int = 2
    num_test_images: int = 1_000


@dataclass
class PerceptualConfig:
    """
    A perceptual network: any image classifier that `transformers` loads, frozen.

    Args:
        model: a folder or Hub id for `AutoModelForImageClassification`.
        logits_weight: weight of the mean squared difference of class logits, the published recipe's term.
        features_weight: weight of the difference of channel-normalised hidden states, averaged over layers.
    """

    model: str
    logits_weight: float = 0.1
    features_weight: float = 0.0


@dataclass
class TokenizerLossConfig:
    """
    Weights of the single-stage loss: reconstruction + perceptual + quantizer_weight * the quantiser's loss.

    Args:
        reconstruction_weight: weight of the mean squared error of the pixels.
        quantizer_weight: weight of commitment + codebook loss, or of the KL divergence.
        perceptual: the perceptual term, or none.
        reinitialize_codes: whether unused codebook entries move to tokens of the batch (arXiv 2307.15139).
    """

    reconstruction_weight: float = 1.0
    quantizer_weight: float = 1.0
    perceptual: PerceptualConfig | None = None
    reinitialize_codes: bool = True


@dataclass
class TokenizerRecipe:
    """
    A single-stage tokenizer run.

    Args:
        output_dir: folder of the run: recipe, checkpoints, pictures, logs, and the model.
        model: fields of `TiTokConfig`; `variant: bl64_vq8k` starts from a published configuration.
    """

    output_dir: str
    data: ImageDataConfig
    model: dict[str, Any]
    optimization: OptimizationConfig
    kind: Literal["tokenizer"] = "tokenizer"
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    cadence: CadenceConfig = field(default_factory=CadenceConfig)
    seed: int = 0


@dataclass
class GeneratorLossConfig:
    """
    The masked-token loss (arXiv 2202.04200, and the published recipe's figures).

    Args:
        label_smoothing: share of the target spread over all codes.
        unmasked_weight: weight of tokens that were not masked; masked ones weigh 1.
        class_dropout: share of labels replaced by "no class", which guidance needs.
    """

    label_smoothing: float = 0.1
    unmasked_weight: float = 0.1
    class_dropout: float = 0.1


@dataclass
class GeneratorRecipe:
    """
    A MaskGIT generator run over the codes of a trained tokenizer.

    Args:
        output_dir: folder of the run: recipe, codes, checkpoints, pictures, logs, and the model.
        tokenizer: folder or Hub id of the `TiTokModel` whose codes are learnt.
        model: fields of `MaskGitTransformer1DModel`; sizes of the codes are taken from the tokenizer.
        sampler: fields of `MaskGitScheduler`, saved with the pipeline and used for the pictures.
    """

    output_dir: str
    data: ImageDataConfig
    tokenizer: str
    model: dict[str, Any]
    optimization: OptimizationConfig
    kind: Literal["generator"] = "generator"
    loss: GeneratorLossConfig = field(default_factory=GeneratorLossConfig)
    sampler: dict[str, Any] = field(default_factory=dict)
    cadence: CadenceConfig = field(default_factory=CadenceConfig)
    seed: int = 0


__all__ = [
    "CadenceConfig",
    "GeneratorLossConfig",
    "GeneratorRecipe",
    "ImageDataConfig",
    "OptimizationConfig",
    "PerceptualConfig",
    "TokenizerLossConfig",
    "TokenizerRecipe",
]
