"""Typed recipes: the dataclasses that a recipe's YAML file fills, with their default values."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from titok_hf.data.configs import CodeDataConfig, ImageDataConfig

from .recipes import RecipeError, build_recipe, read_recipe


@dataclass
class OptimizationConfig:
    """
    AdamW, its schedule, and the averaged weights. Steps are optimiser steps, whatever the number of processes.

    Args:
        num_steps: of the whole run.
        batch_size: examples of a process at once. The global batch is this times the number of processes times
            `gradient_accumulation_steps`.
        gradient_accumulation_steps: batches of a process in each step.
        learning_rate: peak after `warmup_steps` of linear growth; a half cosine then ends at `end_learning_rate`.
        betas, weight_decay: of AdamW; norms, biases and embedding-like parameters are not decayed.
        max_grad_norm: gradients of a larger global norm are scaled down to it.
        ema_decay: decay of the averaged weights, which are saved as the model.
        mixed_precision: as in accelerate.
        gradient_checkpointing: whether activations are computed again in the backward pass, which saves memory.
        compile: whether the model is compiled with `torch.compile`.
        attn_implementation: "sdpa", or "eager", with which a small model trains 1.4 times as fast on a CPU in bf16.
    """

    num_steps: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    end_learning_rate: float = 1e-5
    warmup_steps: int = 10_000
    gradient_accumulation_steps: PositiveInt = 1
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-4
    max_grad_norm: PositiveFloat = 1.0
    ema_decay: float = 0.999
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    gradient_checkpointing: bool = False
    compile: bool = False
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"


@dataclass
class IntervalsConfig:
    """
    After how many optimiser steps a run logs, evaluates and saves, and where it logs to. A resumed run may change all
    of these values, except `num_test_images` where the test images are held out of the training split. Recipes of
    earlier versions call this section `cadence`, which is still read.

    Args:
        log_every: steps between log entries: losses, learning rate, gradient norm, images a second, codebook usage.
        evaluate_every: steps between evaluations on the test images.
        checkpoint_every: steps between checkpoints, which also save the averaged model for `from_pretrained`.
        num_checkpoints: how many checkpoints are kept, the newest ones.
        num_test_images: how many test images an evaluation uses.
        frechet_network: the network whose features give the Frechet distance of reconstructions, or of as many
            generated images: a file with the weights of the published Inception network (for rFID and gFID), or a
            folder or Hub id of an image classifier of `transformers`. Without one the distance is not measured.
        early_model_step: the step after which the averaged model is also kept as `early_model`, such as the weaker
            generator of autoguidance; None keeps none.
        trackers: accelerate's names of further outputs of log entries and images, such as "tensorboard" or "wandb".
    """

    log_every: PositiveInt = 100
    evaluate_every: PositiveInt = 2_000
    checkpoint_every: PositiveInt = 2_000
    num_checkpoints: PositiveInt = 2
    num_test_images: PositiveInt = 1_000
    frechet_network: str | None = None
    early_model_step: PositiveInt | None = None
    trackers: tuple[str, ...] = ("tensorboard",)


@dataclass
class SystemConfig:
    """
    The machines of a run. A resumed run may change all of it.

    Args:
        allow_tf32: whether float32 products may be computed in TF32, on NVIDIA GPUs from Ampere on; None leaves it to
            PyTorch, which allows it in convolutions alone.
        cudnn_benchmark: whether cuDNN measures its kernels and takes the fastest. Runs then differ in rounding.
        process_group_timeout: seconds that a process waits for the others before the run ends with an error; None
            leaves it to PyTorch (10 minutes on GPUs).
        save_on_each_node: whether each node has its own `output_dir`. Checkpoints are then saved on every node;
            metrics, images and models on the first one.
    """

    allow_tf32: bool | None = None
    cudnn_benchmark: bool = False
    process_group_timeout: PositiveInt | None = None
    save_on_each_node: bool = False


@dataclass
class PerceptualConfig:
    """
    The perceptual loss: distances in the features of a frozen classifier, LPIPS, or both.

    Args:
        model: the classifier: `ConvNeXt_Small_Weights.IMAGENET1K_V1`, the network of the published recipes, which is
            downloaded, or a file with it; or a folder or Hub id for `AutoModelForImageClassification`.
        logits_weight: weight of the mean squared difference of class logits, the published recipes' term.
        features_weight: weight of the difference of channel-normalised hidden states, averaged over layers.
        lpips_weight: weight of LPIPS (arXiv 1801.03924).
        lpips_network: the network of LPIPS, from torchvision.
        lpips_weights: a folder with torchvision's weights of it, for machines without a connection.
    """

    model: str | None = None
    logits_weight: NonNegativeFloat = 0.1
    features_weight: NonNegativeFloat = 0.0
    lpips_weight: NonNegativeFloat = 0.0
    lpips_network: Literal["vgg", "alex", "squeeze"] = "vgg"
    lpips_weights: str | None = None

    def __post_init__(self) -> None:
        if self.model is None and not self.lpips_weight:
            raise ValueError(
                "loss.perceptual names no network. Give it a model, or an lpips_weight above 0, or leave it out."
            )
        if self.model is not None and not (self.logits_weight or self.features_weight):
            raise ValueError(
                f"loss.perceptual.model is {self.model!r}, but logits_weight and features_weight are both 0. Give one "
                "of them a weight, or leave the model out."
            )


@dataclass
class AdversarialConfig:
    """
    The adversarial loss: a patch discriminator with hinge loss and LeCam regularisation (arXiv 2104.03310).

    Args:
        weight: of the generator's adversarial term.
        start_step: first step with the adversarial term and with training of the discriminator.
        learning_rate: of the discriminator, whose optimiser is otherwise that of the model. Its schedule begins at
            `start_step` and has `num_steps - start_step / schedule_processes` steps.
        schedule_processes: 1 ends the schedule with the run. The original multiplies its length, but not `start_step`,
            by the number of processes; with 8 processes its schedule is cut off before the end.
        lecam_weight: weight of LeCam regularisation.
        hidden_channels, num_stages: size of the discriminator; the defaults are the published size.
    """

    weight: float
    start_step: int
    learning_rate: float = 1e-4
    schedule_processes: PositiveInt = 1
    lecam_weight: float = 0.001
    hidden_channels: int = 128
    num_stages: int = 3


@dataclass
class PixelLossConfig:
    """
    Weights of a loss on pixels: reconstruction + perceptual + quantiser + adversarial.

    Args:
        reconstruction: "l2", the mean squared error of the pixels, or "l1", the mean absolute one.
        reconstruction_weight: its weight.
        quantizer_weight: weight of commitment + codebook loss, or of the KL divergence.
        reinitialize_codes: whether unused entries of a trained codebook move to tokens of the batch (arXiv
            2307.15139).
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
    The values that recipes of all kinds have.

    Args:
        output_dir: folder of the run: recipe, checkpoints, metrics, images, logs, and the model.
        init_from: folder or Hub id of a model of the same kind, with whose weights a new run starts: the `model/` of
            another run, or a pipeline for a generator. Names and shapes of its parameters must be those of this model.
        push_to_hub: the Hub repository that receives the finished model.
        seed: of the first weights and of all random numbers.
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
    The loss of stage 1: cross-entropy of the proxy codes + `quantizer_weight` * (commitment + codebook loss). The
    published stage 1 does not reinitialise codes.
    """

    quantizer_weight: float = 1.0
    reinitialize_codes: bool = False


@dataclass(kw_only=True)
class Stage1Recipe(Recipe):
    """
    The first stage of a two-stage tokenizer (arXiv 2406.07550, section 3.3): it predicts the codes of a MaskGIT-VQGAN.

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
    The second stage: encoder and codebook are frozen; the decoder, followed by the decoder of the MaskGIT-VQGAN, is
    fine-tuned on pixels.

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
    The masked-token loss (arXiv 2202.04200) with the values of the published recipes.

    Args:
        label_smoothing: share of the target spread over all codes.
        unmasked_weight: weight of tokens that are not masked; masked tokens have weight 1.
        class_dropout: share of labels replaced by "no class", which guidance needs.
    """

    label_smoothing: float = 0.1
    unmasked_weight: float = 0.1
    class_dropout: float = 0.1


@dataclass
class LoraConfig:
    """
    A LoRA adapter (arXiv 2106.09685) of the generator of a pipeline, instead of a new generator. Classes of the data
    that the pipeline does not have become new classes, whose embeddings are trained and saved with the adapter.

    Args:
        rank: of the two matrices that are trained beside each weight.
        alpha: the product of the matrices is scaled by `alpha / rank`.
        dropout: of the input of the matrices.
        target_modules: ends of the names of the layers that are adapted.
    """

    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    dropout: NonNegativeFloat = 0.0
    target_modules: tuple[str, ...] = ("qkv_proj", "out_proj", "fc1", "fc2")

    def __post_init__(self) -> None:
        if self.dropout >= 1:
            raise ValueError(f"lora.dropout is {self.dropout}. Use a number from 0 up to, but not including, 1.")


@dataclass(kw_only=True)
class GeneratorRecipe(Recipe):
    """
    A MaskGIT generator over the codes of a trained tokenizer.

    Args:
        tokenizer: folder or Hub id of the `TiTokModel`.
        codes, data: either precomputed codes, or images, which the tokenizer encodes batch by batch.
        model: fields of `MaskGitTransformer1DModel`; the tokenizer decides the sizes of the codes.
        sampler: fields of `MaskGitScheduler`, which is saved with the pipeline and makes the images of an evaluation.
            Its `mask_schedule` is also the schedule of training.
        frechet_reference: for `intervals.frechet_network`, an npz file in the layout of ADM, with images or statistics
            that generated images are compared with. Without it they are compared with the test images of `data`.
        lora: trains an adapter of the pipeline that `init_from` names. Its tokenizer, generator and sampler are used,
            so `tokenizer`, `model` and `sampler` are left out.
    """

    kind: Literal["generator"] = "generator"
    tokenizer: str | None = None
    model: dict[str, Any] | None = None
    lora: LoraConfig | None = None
    codes: CodeDataConfig | None = None
    data: ImageDataConfig | None = None
    loss: GeneratorLossConfig = field(default_factory=GeneratorLossConfig)
    sampler: dict[str, Any] = field(default_factory=dict)
    frechet_reference: str | None = None

    def __post_init__(self) -> None:
        if (self.codes is None) == (self.data is None):
            raise ValueError("A generator learns from codes or from data (images): give exactly one of the two.")
        missing = [name for name in ("tokenizer", "model") if getattr(self, name) is None]
        if self.lora is None and missing:
            raise ValueError(f"{missing[0]} is missing. Name it, or give init_from a pipeline and add a section lora.")
        if self.lora is not None and (len(missing) < 2 or self.sampler):
            name = next(name for name in ("tokenizer", "model", "sampler") if getattr(self, name))
            raise ValueError(
                f"{name} and lora are both given. An adapter has the {name} of its pipeline; leave {name} out."
            )
        if self.lora is not None and self.init_from is None:
            raise ValueError(
                "lora changes the generator of a trained pipeline. Name its folder or Hub id in init_from."
            )
        if self.lora is not None and self.push_to_hub is not None:
            raise ValueError(
                f"push_to_hub is {self.push_to_hub!r}, but an adapter is one file beside a pipeline. Leave it out, "
                "and upload the run's model folder with `hf upload`."
            )


@dataclass(kw_only=True)
class ClassifierRecipe(Recipe):
    """
    An image classifier, for perceptual losses or measurements. Networks with batch normalisation need
    `optimization.ema_decay: 0`, because its statistics are not averaged.

    Args:
        model: `model_type`, an architecture of `transformers`, and fields of its config.
        label_smoothing: share of the target spread over all classes.
        max_shift: by how many pixels, at most, training images are moved in each direction.
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


PixelRecipe = TokenizerRecipe | Stage2Recipe | VQGANRecipe
ImageRecipe = PixelRecipe | Stage1Recipe

RECIPES: dict[str, type[Recipe]] = {
    recipe.kind: recipe
    for recipe in (TokenizerRecipe, Stage1Recipe, Stage2Recipe, VQGANRecipe, GeneratorRecipe, ClassifierRecipe)
}


def load_training_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """
    A recipe of the kind that its file names; arguments as for `read_recipe`.

    Raises:
        RecipeError: there is no such recipe, its kind is unknown, or its values do not fit the kind.
    """
    values = read_recipe(name_or_path, overrides)
    kind = values.get("kind")
    if kind not in RECIPES:
        raise RecipeError(f"The recipe says kind: {kind}. It must be one of {', '.join(RECIPES)}.")
    return build_recipe(RECIPES[kind], values)
