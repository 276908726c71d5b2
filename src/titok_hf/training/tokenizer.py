"""The models that are trained on pixels: single-stage tokenizers (arXiv 2501.07730), the second stage of two-stage
tokenizers (arXiv 2406.07550, section 3.3), and the MaskGIT-VQGAN, the teacher of their first stage."""

from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedModel

from titok_hf.checkpoints.locations import may_be_hub_id
from titok_hf.configuration_maskgit_vqgan import MaskGitVQGANConfig
from titok_hf.configuration_titok import TiTokConfig
from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANModel
from titok_hf.modeling_titok import TiTokModel

from .configs import Recipe, Stage2Recipe, TokenizerRecipe, VQGANRecipe
from .pixels import PixelTask
from .recipes import RecipeError

Model = TypeVar("Model", bound=PreTrainedModel)


def single_stage_task(recipe: TokenizerRecipe, accelerator: Accelerator) -> PixelTask:
    """A new tokenizer that predicts pixels."""
    config = tokenizer_config(recipe.model, recipe.data.image_size)
    if config.decoder_head != "pixels":
        raise RecipeError(
            'model.decoder_head is "proxy_codes", which is trained in two stages (kinds tokenizer_stage1 and '
            "tokenizer_stage2). This kind makes models with decoder_head: pixels."
        )
    return PixelTask(recipe, _with_attention(TiTokModel(config), recipe), accelerator)


def stage2_task(recipe: Stage2Recipe, accelerator: Accelerator) -> PixelTask:
    """The stage-1 tokenizer followed by the decoder of the MaskGIT-VQGAN; encoder and quantiser are frozen."""
    model = with_pixel_decoder(recipe.tokenizer, recipe.teacher)
    _check_image_size(recipe.data.image_size, model.config.image_size, f"tokenizer {recipe.tokenizer}")
    model.encoder.requires_grad_(False)
    model.quantizer.requires_grad_(False)
    return PixelTask(recipe, _with_attention(model, recipe), accelerator)


def vqgan_task(recipe: VQGANRecipe, accelerator: Accelerator) -> PixelTask:
    """A new MaskGIT-VQGAN."""
    config = build_config(MaskGitVQGANConfig, recipe.model)
    if recipe.data.image_size % config.downsample_factor:
        raise RecipeError(
            f"data.image_size is {recipe.data.image_size}, which is no multiple of the {config.downsample_factor} "
            "pixels that a code stands for. Change it, or model.channel_multipliers."
        )
    return PixelTask(recipe, MaskGitVQGANModel(config), accelerator)


def with_pixel_decoder(tokenizer: str, teacher: str) -> TiTokModel:
    """
    The initial model of stage 2: a stage-1 tokenizer with the codebook and decoder of its teacher.

    Args:
        tokenizer: folder or Hub id of a [`TiTokModel`] that predicts proxy codes.
        teacher: folder or Hub id of a [`MaskGitVQGANModel`].
    Raises:
        RecipeError: one of the two is no such model, or they do not fit one another.
    """
    stage1 = load_model(TiTokModel, tokenizer, "tokenizer")
    if stage1.config.decoder_head != "proxy_codes" or stage1.pixel_decoder is not None:
        raise RecipeError(
            f"tokenizer {tokenizer} does not end in proxy codes, so it is no stage-1 model. Train one with a recipe "
            "of kind tokenizer_stage1, and name its output_dir/model."
        )
    vqgan = load_model(MaskGitVQGANModel, teacher, "teacher")
    fields = stage1.config.to_dict() | {"pixel_decoder": vqgan.config.to_dict()}
    try:
        model = TiTokModel(TiTokConfig.from_dict(fields))
    except (StrictDataclassError, ValueError) as error:
        raise RecipeError(
            f"teacher {teacher} does not fit tokenizer {tokenizer}: {error.__cause__ or error}"
        ) from error
    model.encoder.load_state_dict(stage1.encoder.state_dict())
    model.quantizer.load_state_dict(stage1.quantizer.state_dict())
    model.decoder.load_state_dict(stage1.decoder.state_dict())
    model.pixel_decoder.codebook.load_state_dict(vqgan.quantizer.codebook.state_dict())
    model.pixel_decoder.decoder.load_state_dict(vqgan.decoder.state_dict())
    return model


def tokenizer_config(values: dict[str, Any], image_size: int) -> TiTokConfig:
    """
    The configuration of a recipe's `model`. If it has a `variant`, the other fields change that published variant.

    Raises:
        RecipeError: an unknown field, values that do not fit, or another image size than the data's.
    """
    values = dict(values)
    variant = values.pop("variant", None)
    if variant is None:
        values.setdefault("image_size", image_size)
    config = build_config(TiTokConfig, values, variant)
    _check_image_size(image_size, config.image_size, "the model's")
    return config


def build_config(cls: type[PreTrainedConfig], values: dict[str, Any], variant: str | None = None) -> Any:
    """A configuration from a recipe's fields; RecipeError for unknown ones and for values that do not fit."""
    unknown = set(values) - {field.name for field in dataclass_fields(cls)}
    if unknown:
        raise RecipeError(f"model.{min(unknown)} is not a field of {cls.__name__}.")
    try:
        return cls(**values) if variant is None else cls.from_variant(variant, **values)  # type: ignore[attr-defined]
    except (StrictDataclassError, ValueError) as error:
        raise RecipeError(f"model: {error.__cause__ or error}") from error


def load_model(cls: type[Model], source: str, key: str, **options: str) -> Model:
    """
    A trained model that a recipe names under `key`; `options` are those of `from_pretrained`.

    Raises:
        RecipeError: there is no such folder or Hub id, or it contains something else.
    """
    if not Path(source).exists() and not may_be_hub_id(source, needs_user=False):
        raise RecipeError(
            f"{key} is {source!r}, and there is no such folder. Train it first, or name another folder or a Hub id."
        )
    try:
        return cls.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        missing = "" if Path(source).exists() else " There is no such file or folder, and as a Hub id:"
        raise RecipeError(
            f"{key} is {source!r}, which can't be loaded as a {cls.__name__}.{missing} {error}"
        ) from error


def _check_image_size(data: int, model: int, whose: str) -> None:
    if data != model:
        raise RecipeError(f"data.image_size is {data}, but that of {whose} is {model}. Make them equal.")


def _with_attention(model: TiTokModel, recipe: Recipe) -> TiTokModel:
    model.set_attn_implementation(recipe.optimization.attn_implementation)
    return model
