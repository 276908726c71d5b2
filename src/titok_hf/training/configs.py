"""Typed recipes. Every number that shapes a run stands here or in the YAML that fills it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from titok_hf.data.configs import CodeDataConfig, ImageDataConfig

from .recipes import RecipeError, build_recipe, read_recipe


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
        gradient_checkpointing: whether activations are computed again in the backward pass, which saves memory.
        compile: whether the model is compiled with `torch.compile`.
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
    gradient_checkpointing: bool = False
    compile: bool = False
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "gradient_accumulation_steps", "learning_rate", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"optimization.{name} is {getattr(self, name)}; it must be larger than 0.")


@dataclass
class IntervalsConfig:
    """
    After how many optimiser steps a run logs, evaluates and saves, and where it logs to. A resumed run may change all
    of these values, except `num_test_images` where the test images are held out of the training split. Recipes of
    earlier versions call this section `intervals`, which is still read.

    Args:
        log_every: an entry with losses, learning rate, gradient norm, images a second and the use of the codebook.
        evaluate_every: measures on the test images and a picture.
        checkpoint_every: the training state, and the averaged model in `from_pretrained` format.
        num_checkpoints: training states that are kept, the newest ones.
        num_test_images: test images that an evaluation looks at.
        frechet_network: the network in whose eyes the Frechet distance of reconstructions is measured: a file with the
            weights of the published Inception network (that distance is the rFID), or any image classifier of
            `transformers`, as a folder or Hub id. Without one the distance is not measured.
        trackers: accelerate's names of where entries and pictures go besides `metrics.jsonl` and `pictures/`:
            "tensorboard", "wandb", "trackio" and so on.
    """

    log_every: int = 100
    evaluate_every: int = 2_000
    checkpoint_every: int = 2_000
    num_checkpoints: int = 2
    num_test_images: int = 1_000
    frechet_network: str | None = None
    trackers: tuple[str, ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        for name in ("log_every", "evaluate_every", "checkpoint_every", "num_checkpoints", "num_test_images"):
            if getattr(self, name) <= 0:
                raise ValueError(f"intervals.{name} is {getattr(self, name)}; it must be larger than 0.")


@dataclass
class SystemConfig:
    """
    The machines of a run. A resumed run may change all of it.

    Args:
        allow_tf32: whether float32 products may be computed in TF32, on NVIDIA GPUs from Ampere on; None leaves it to
            PyTorch, which allows it in convolutions alone.
        cudnn_benchmark: whether cuDNN tries its kernels out and takes the fastest. Runs then differ in rounding.
        process_group_timeout: seconds that a process waits for the others before the run ends with an error; None
            leaves it to PyTorch (10 minutes on GPUs).
        save_on_each_node: whether each node has an `output_dir` of its own. Checkpoints are then saved on every node;
            metrics, pictures and models on the first one.
    """

    allow_tf32: bool | None = None
    cudnn_benchmark: bool = False
    process_group_timeout: int | None = None
    save_on_each_node: bool = False

    def __post_init__(self) -> None:
        if self.process_group_timeout is not None and self.process_group_timeout <= 0:
            raise ValueError(
                f"system.process_group_timeout is {self.process_group_timeout} seconds; it must be larger than 0."
            )


@dataclass
class PerceptualConfig:
    """
    The perceptual loss: differences in the eyes of a frozen classifier, of LPIPS, or of both.

    Args:
        model: the classifier: `ConvNeXt_Small_Weights.IMAGENET1K_V1`, torchvision's network of the published recipes,
            which is downloaded, or a file with it; or a folder or Hub id for `AutoModelForImageClassification`.
        logits_weight: weight of the mean squared difference of class logits, the published recipes' term.
        features_weight: weight of the difference of channel-normalised hidden states, averaged over layers.
        lpips_weight: weight of LPIPS (arXiv 1801.03924).
        lpips_network: the network of LPIPS, from torchvision.
        lpips_weights: a folder with torchvision's weights of it, for machines without network.
    """

    model: str | None = None
    logits_weight: float = 0.1
    features_weight: float = 0.0
    lpips_weight: float = 0.0
    lpips_network: Literal["vgg", "alex", "squeeze"] = "vgg"
    lpips_weights: str | None = None

    def __post_init__(self) -> None:
        if self.model is None and not self.lpips_weight:
            raise ValueError(
                "loss.perceptual names no network. Give it a model, or an lpips_weight above 0, or leave it out."
            )


@dataclass
class AdversarialConfig:
    """
    The adversarial loss: a patch discriminator with hinge loss and LeCam regularisation (arXiv 2104.03310).

    Args:
        weight: of the generator's adversarial term.
        start_step: the step from which on the term counts and the discriminator is trained.
        learning_rate: the discriminator's; the rest of its optimiser is the model's. Its schedule begins at
            `start_step` and is `num_steps - start_step / schedule_processes` steps long.
        schedule_processes: 1 ends the schedule with the run. The original multiplies its length, but not `start_step`,
            by the number of processes, so that with 8 of them the schedule is cut off before its end.
        lecam_weight: weight of the regularisation of the discriminator.
        hidden_channels, num_stages: size of the discriminator; the defaults are the published one's.
    """

    weight: float
    start_step: int
    learning_rate: float = 1e-4
    schedule_processes: int = 1
    lecam_weight: float = 0.001
    hidden_channels: int = 128
    num_stages: int = 3

    def __post_init__(self) -> None:
        if self.schedule_processes < 1:
            raise ValueError(
                f"loss.adversarial.schedule_processes is {self.schedule_processes}; it must be at least 1."
            )


@dataclass
class PixelLossConfig:
    """
    Weights of a loss on pixels: reconstruction + perceptual + quantiser + adversarial.

    Args:
        reconstruction: "l2", the mean squared error of the pixels, or "l1", the mean absolute one.
        reconstruction_weight: its weight.
        quantizer_weight: weight of commitment + codebook loss, or of the KL divergence.
        perceptual, adversarial: the two further terms, or none.
        reinitialize_codes: whether unused codebook entries move to tokens of the batch (arXiv 2307.15139), where there
            is a codebook that is not frozen.
    """

    reconstruction: Literal["l2", "l1"] = "l2"
    reconstruction_weight: float = 1.0
    quantizer_weight: float = 1.0
    perceptual: PerceptualConfig | None = None
    adversarial: AdversarialConfig | None = None
    reinitialize_codes: bool = True


@dataclass(kw_only=True)
class Recipe:
    """
    What the recipes of all kinds have in common.

    Args:
        kind: what is trained; each class has its own.
        output_dir: folder of the run: recipe, checkpoints, metrics, pictures, logs, and the model.
        init_from: folder or Hub id of a model of the same kind, whose weights a new run starts from: the `model/` of
            another run for example, or a pipeline for a generator. The names and shapes of its parameters must be
            those of this model. A resumed run does not need it.
        push_to_hub: the Hub repository that receives the finished model.
        seed: of the first weights and of all randomness.
    """

    kind: str
    output_dir: str
    optimization: OptimizationConfig
    intervals: IntervalsConfig = field(default_factory=IntervalsConfig)
    system: SystemConfig = field(default_factory=SystemConfig)
    init_from: str | None = None
    push_to_hub: str | None = None
    seed: int = 0


@dataclass(kw_only=True)
class TokenizerRecipe(Recipe):
    """
    A tokenizer trained end to end on pixels, with a codebook or a Gaussian (arXiv 2501.07730).

    Args:
        model: fields of `TiTokConfig`; `variant: bl64_vq8k` starts from a published configuration.
    """

    kind: Literal["tokenizer"] = "tokenizer"
    data: ImageDataConfig
    model: dict[str, Any]
    loss: PixelLossConfig = field(default_factory=PixelLossConfig)


@dataclass
class ProxyCodeLossConfig:
    """
    The loss of stage 1: cross-entropy of the proxy codes + `quantizer_weight` * (commitment + codebook loss).

    Args:
        reinitialize_codes: whether unused codebook entries move to tokens of the batch (arXiv 2307.15139); the
            published stage 1 leaves them.
    """

    quantizer_weight: float = 1.0
    reinitialize_codes: bool = False


@dataclass(kw_only=True)
class Stage1Recipe(Recipe):
    """
    The first stage of a two-stage tokenizer (arXiv 2406.07550, section 3.3): predict the codes that a MaskGIT-VQGAN
    gives the image.

    Args:
        teacher: folder or Hub id of the `MaskGitVQGANModel`.
        model: fields of `TiTokConfig`; `variant: l32` starts from a published configuration.
    """

    kind: Literal["tokenizer_stage1"] = "tokenizer_stage1"
    data: ImageDataConfig
    teacher: str
    model: dict[str, Any]
    loss: ProxyCodeLossConfig = field(default_factory=ProxyCodeLossConfig)


@dataclass(kw_only=True)
class Stage2Recipe(Recipe):
    """
    The second stage: encoder and codebook stay as they are; the decoder and the decoder of the MaskGIT-VQGAN behind it
    are fine-tuned on pixels.

    Args:
        tokenizer: folder or Hub id of the stage-1 `TiTokModel`.
        teacher: folder or Hub id of the `MaskGitVQGANModel` whose codes it predicts.
    """

    kind: Literal["tokenizer_stage2"] = "tokenizer_stage2"
    data: ImageDataConfig
    tokenizer: str
    teacher: str
    loss: PixelLossConfig = field(default_factory=lambda: PixelLossConfig(quantizer_weight=0.0))


@dataclass(kw_only=True)
class VQGANRecipe(Recipe):
    """
    A MaskGIT-VQGAN, the teacher of stage 1.

    Args:
        model: fields of `MaskGitVQGANConfig`.
    """

    kind: Literal["vqgan"] = "vqgan"
    data: ImageDataConfig
    model: dict[str, Any] = field(default_factory=dict)
    loss: PixelLossConfig = field(default_factory=PixelLossConfig)


@dataclass
class GeneratorLossConfig:
    """
    The masked-token loss (arXiv 2202.04200, and the published recipe's figures).

    Args:
        label_smoothing: share of the target spread over all codes.
        unmasked_weight: weight of tokens that are not masked; masked tokens weigh 1.
        class_dropout: share of labels replaced by "no class", which guidance needs.
    """

    label_smoothing: float = 0.1
    unmasked_weight: float = 0.1
    class_dropout: float = 0.1


@dataclass(kw_only=True)
class GeneratorRecipe(Recipe):
    """
    A MaskGIT generator over the codes of a trained tokenizer.

    Args:
        tokenizer: folder or Hub id of the `TiTokModel` whose codes are learnt.
        codes: the codes, made beforehand; or
        data: images, which the tokenizer encodes batch by batch.
        model: fields of `MaskGitTransformer1DModel`; sizes of the codes are taken from the tokenizer.
        sampler: fields of `MaskGitScheduler`, saved with the pipeline and used for the images of an evaluation. Its
            `mask_schedule` is also the schedule of training.
    """

    kind: Literal["generator"] = "generator"
    tokenizer: str
    model: dict[str, Any]
    codes: CodeDataConfig | None = None
    data: ImageDataConfig | None = None
    loss: GeneratorLossConfig = field(default_factory=GeneratorLossConfig)
    sampler: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.codes is None) == (self.data is None):
            raise ValueError("A generator learns from codes or from data (images): give exactly one of the two.")


@dataclass(kw_only=True)
class ClassifierRecipe(Recipe):
    """
    An image classifier, as perceptual network or as a measure. `optimization.ema_decay: 0` saves the last weights
    instead of averaged ones, as batch normalisation needs, whose statistics are not averaged.

    Args:
        model: `model_type`, an architecture of `transformers`, and fields of its config.
        label_smoothing: share of the target spread over all classes.
        max_shift: training images are moved by up to that many pixels in each direction.
    """

    kind: Literal["classifier"] = "classifier"
    data: ImageDataConfig
    model: dict[str, Any]
    label_smoothing: float = 0.0
    max_shift: int = 0

    def __post_init__(self) -> None:
        if self.push_to_hub is not None:
            raise ValueError(
                f"push_to_hub is {self.push_to_hub!r}, but a classifier is a plain model of transformers. Leave it "
                "out, and upload the finished model with `hf upload`."
            )


RECIPES: dict[str, type[Recipe]] = {
    "tokenizer": TokenizerRecipe,
    "tokenizer_stage1": Stage1Recipe,
    "tokenizer_stage2": Stage2Recipe,
    "vqgan": VQGANRecipe,
    "generator": GeneratorRecipe,
    "classifier": ClassifierRecipe,
}


def load_training_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """
    A recipe of the kind that its file names; arguments are those of `read_recipe`.

    Raises:
        RecipeError: there is no such recipe, it says no known kind, or it does not fit it.
    """
    values = read_recipe(name_or_path, overrides)
    kind = values.get("kind")
    if kind not in RECIPES:
        raise RecipeError(f"The recipe says kind: {kind}. It must be one of {', '.join(RECIPES)}.")
    return build_recipe(RECIPES[kind], values)
