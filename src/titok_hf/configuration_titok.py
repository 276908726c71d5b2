"""Configuration of TiTok, the one-dimensional image tokenizer (arXiv 2406.07550): sizes, and checks of its input."""

from typing import Any, Literal, cast

import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .accepted_values import (
    LARGEST_DEPTH,
    LARGEST_SIZE,
    check_code_range,
    check_pixel_dtype,
    check_shape,
    integer_codes,
    real_number,
    whole_number,
)
from .checkpoints.remote_code import LoadedByAutoClasses
from .configuration_maskgit_vqgan import MaskGitVQGANConfig
from .quantization_titok import QUANTIZERS

VIT_FIELDS = ("hidden_size", "num_hidden_layers", "num_attention_heads")
# Values of these fields for the sizes of the paper (section 4.1).
VIT_SIZES = {"small": (512, 8, 8), "base": (768, 12, 12), "large": (1024, 24, 16)}

_SIZES = (
    "image_size",
    "num_channels",
    "patch_size",
    "encoder_patch_size",
    "decoder_patch_size",
    "encoder_hidden_size",
    "encoder_num_attention_heads",
    "decoder_hidden_size",
    "decoder_num_attention_heads",
    "num_latent_tokens",
    "codebook_size",
    "codebook_dim",
    "proxy_codebook_size",
)


# Proxy codes, then the MaskGIT-VQGAN decoder fine-tuned on pixels.
_TWO_STAGE = {"quantizer": "vq", "codebook_size": 4096, "codebook_dim": 12, "codebook_l2_norm": True}
_TWO_STAGE |= {"decoder_head": "proxy_codes", "pixel_decoder": {}, "legacy_latent_layout": True}
# Pixels end to end (arXiv 2501.07730), with a codebook or a diagonal Gaussian.
_VQ8K = {"quantizer": "vq", "codebook_size": 8192, "codebook_dim": 64, "codebook_l2_norm": False}
_KL_C16 = {"quantizer": "kl", "codebook_dim": 16}
# Two stages, trained with tail drop (One-D-Piece, arXiv 2501.10064).
_ONE_D_PIECE = _TWO_STAGE | {"tail_drop": True}


def _variant(encoder: str, decoder: str, num_latent_tokens: int, recipe: dict, image_size: int = 256) -> dict:
    fields = recipe | {"num_latent_tokens": num_latent_tokens, "image_size": image_size}
    for side, size in (("encoder", encoder), ("decoder", decoder)):
        for name, value in zip(VIT_FIELDS, VIT_SIZES[size], strict=True):
            fields[f"{side}_{name}"] = value
    return fields


TITOK_VARIANTS: dict[str, dict[str, Any]] = {
    "l32": _variant("large", "large", 32, _TWO_STAGE),
    "b64": _variant("base", "base", 64, _TWO_STAGE),
    "s128": _variant("small", "small", 128, _TWO_STAGE),
    "bl64_vq8k": _variant("base", "large", 64, _VQ8K),
    "bl128_vq8k": _variant("base", "large", 128, _VQ8K),
    "sl256_vq8k": _variant("small", "large", 256, _VQ8K),
    "ll32_vae_c16": _variant("large", "large", 32, _KL_C16),
    "bl64_vae_c16": _variant("base", "large", 64, _KL_C16),
    "bl128_vae_c16": _variant("base", "large", 128, _KL_C16),
    # The two models of the paper's 512 px table; their weights were never released.
    "l64_512": _variant("large", "large", 64, _TWO_STAGE, image_size=512),
    "b128_512": _variant("base", "base", 128, _TWO_STAGE, image_size=512),
    "one_d_piece_s256": _variant("small", "small", 256, _ONE_D_PIECE),
    "one_d_piece_b256": _variant("base", "base", 256, _ONE_D_PIECE),
    "one_d_piece_l256": _variant("large", "large", 256, _ONE_D_PIECE),
}


@strict
class TiTokConfig(LoadedByAutoClasses, PreTrainedConfig):
    """
    Configuration of a [`TiTokModel`]. Sizes are free; [`TiTokConfig.from_variant`] gives the published ones.

    Args:
        image_size: height and width of the square images, in pixels.
        num_channels: colour channels of the images.
        patch_size: side of a square patch, in pixels; divides `image_size`.
        encoder_patch_size, decoder_patch_size: where encoder and decoder differ from `patch_size`.
        encoder_hidden_size, encoder_num_hidden_layers, encoder_num_attention_heads: the encoder's ViT.
        decoder_hidden_size, decoder_num_hidden_layers, decoder_num_attention_heads: the decoder's ViT.
        mlp_ratio: width of the MLPs as a multiple of the hidden size.
        layer_norm_eps: epsilon of every layer normalisation.
        num_latent_tokens: number of one-dimensional tokens that describe an image (the paper's K).
        tail_drop: whether the decoder learnt from the first n tokens of each image, n uniform in 1 to
            `num_latent_tokens` (arXiv 2501.10064). Such a model decodes any number of first tokens, others only all.
        quantizer: `"vq"`, a codebook, or `"kl"`, a diagonal Gaussian (continuous tokens), or another name in
            `titok_hf.quantization_titok.QUANTIZERS`.
        codebook_size: number of codes; unused by `"kl"`.
        codebook_dim: channels of a token; the Gaussian's for `"kl"`.
        codebook_l2_norm: whether tokens and codebook entries are compared on the unit sphere.
        commitment_cost: weight of the commitment loss in the quantiser loss.
        decoder_head: `"pixels"`, a linear map of each patch and one convolution, or `"proxy_codes"`, logits over the
            codes of a MaskGIT-VQGAN.
        proxy_codebook_size: number of proxy codes; used by `"proxy_codes"` only.
        pixel_decoder: the MaskGIT-VQGAN whose decoder turns soft proxy codes into pixels; None in stage 1, where the
            model ends in the logits.
        legacy_latent_layout: the layout of the checkpoints l32, b64 and s128, see [`TiTokEncoder`].
        initializer_range: standard deviation of the initial weights of most linear maps. Tokens and positions have
            width ** -0.5; the attention's input projections are Xavier uniform, codebooks uniform in
            +-1 / codebook_size, and the pixel decoder is initialised as PyTorch initialises convolutions.

    Raises:
        StrictDataclassError: a field of another type, or sizes that are impossible or do not fit one another.

    Example:
        >>> config = TiTokConfig.from_variant("s128")
        >>> config.num_latent_tokens
        128
    """

    model_type = "titok"
    auto_classes = {"AutoConfig": "titok.TiTokConfig", "AutoModel": "titok.TiTokModel"}
    sub_configs_defaults = {"pixel_decoder": SubConfigSpec(config_class=MaskGitVQGANConfig, optional=True)}

    image_size: int = 256
    num_channels: int = 3
    patch_size: int = 16
    encoder_patch_size: int | None = None
    decoder_patch_size: int | None = None
    encoder_hidden_size: int = 768
    encoder_num_hidden_layers: int = 12
    encoder_num_attention_heads: int = 12
    decoder_hidden_size: int = 768
    decoder_num_hidden_layers: int = 12
    decoder_num_attention_heads: int = 12
    mlp_ratio: float | int = 4
    layer_norm_eps: float = 1e-5
    num_latent_tokens: int = 32
    tail_drop: bool = False
    quantizer: str = "vq"
    codebook_size: int = 4096
    codebook_dim: int = 12
    codebook_l2_norm: bool = True
    commitment_cost: float | int = 0.25
    decoder_head: Literal["pixels", "proxy_codes"] = "pixels"
    proxy_codebook_size: int = 1024
    pixel_decoder: dict | PreTrainedConfig | None = None
    legacy_latent_layout: bool = False
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        if self.encoder_patch_size is None:
            self.encoder_patch_size = self.patch_size
        if self.decoder_patch_size is None:
            self.decoder_patch_size = self.patch_size
        super().__post_init__(**kwargs)

    @classmethod
    def from_variant(cls, name: str, **overrides: Any) -> "TiTokConfig":
        """
        The configuration of a published model.

        Args:
            name: a key of `TITOK_VARIANTS`, such as `"l32"` or `"bl128_vae_c16"`.
            overrides: fields that differ; `pixel_decoder=None` gives the stage-1 model of a two-stage variant.

        Raises:
            ValueError: a name that is not a variant.
        """
        if name not in TITOK_VARIANTS:
            raise ValueError(f"{name!r} is not a TiTok variant. Choose one of {', '.join(TITOK_VARIANTS)}.")
        return cls(**(TITOK_VARIANTS[name] | overrides))

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the encoder, whose hidden states `encode` and `forward` return."""
        return self.encoder_num_hidden_layers

    @property
    def has_codebook(self) -> bool:
        """Whether tokens are codes, integers in [0, codebook_size), rather than vectors of floats."""
        return QUANTIZERS[self.quantizer].has_codes

    @property
    def token_shape(self) -> tuple[int, ...]:
        """Shape of an image's tokens: (num_latent_tokens,) of codes, (num_latent_tokens, codebook_dim) otherwise."""
        return (self.num_latent_tokens,) if self.has_codebook else (self.num_latent_tokens, self.codebook_dim)

    def check_pixel_values(self, pixel_values: torch.Tensor) -> None:
        """ValueError for images of another shape than (batch, num_channels, image_size, image_size), or not floats."""
        expected = (self.num_channels, self.image_size, self.image_size)
        check_shape(pixel_values, expected, "pixel_values", "Prepare images with TiTokImageProcessor.")
        check_pixel_dtype(pixel_values)

    def checked_num_tokens(self, num_tokens: int | None) -> int:
        """
        How many of the first tokens of an image are used; None is all of them.

        Raises:
            ValueError: no integer in [1, num_latent_tokens], or fewer than all of a model without tail drop.
        """
        most = self.num_latent_tokens
        number = most if num_tokens is None else whole_number("num_tokens", num_tokens, highest=most)
        if number < most and not self.tail_drop:
            raise ValueError(
                f"num_tokens is {number}, but this model was trained to decode all {most} tokens. Leave num_tokens "
                "out, or use a model that was trained with tail drop (`tail_drop` in its config)."
            )
        return number

    def checked_codes(self, codes: torch.Tensor, name: str = "codes") -> torch.Tensor:
        """
        Codes of any integer dtype as int64, shape (batch, num_latent_tokens), or with fewer tokens for a model trained
        with tail drop. Checks the range, which waits for the device, unless the model is compiled or exported.

        Raises:
            ValueError: no integers, another shape, values outside of [0, codebook_size), or a model without codes.
        """
        codes = integer_codes(codes, name)
        if not self.has_codebook:
            raise ValueError(
                f"This is a {self.quantizer.upper()} model, which has no codebook and takes no codes. Pass latents."
            )
        self._check_token_shape(codes, (), name, "Use what `encode` returns.")
        check_code_range(codes, self.codebook_size, name)
        return codes

    def check_latents(self, latents: torch.Tensor) -> None:
        """ValueError for latents of another shape than (batch, tokens, codebook_dim), see `decode`, or not floats."""
        self._check_token_shape(latents, (self.codebook_dim,), "latents", "Pass encode(...).latents.")
        if not latents.is_floating_point():
            raise ValueError(f"latents has dtype {latents.dtype}, but floats are expected. Pass codes as codes=.")

    def _check_token_shape(self, tokens: torch.Tensor, channels: tuple[int, ...], name: str, hint: str) -> None:
        """ValueError unless the shape is (batch, tokens, *channels), with a number of tokens that is decoded."""
        expected = most = self.num_latent_tokens
        length = tokens.shape[1] if tokens.ndim > 1 else most
        if self.tail_drop and 1 <= length <= most:
            expected = length
        elif self.tail_drop:
            hint = f"With tail drop, any number of tokens from 1 to {most} is decoded."
        elif length < most:
            hint = f"Without tail drop (`tail_drop` in its config) only all tokens together are decoded. {hint}"
        check_shape(tokens, (expected, *channels), name, hint)

    def validate_architecture(self) -> None:
        """Part of `@strict` validation: sizes must be possible and fit one another."""
        if self.quantizer not in QUANTIZERS:
            raise ValueError(
                f"quantizer is {self.quantizer!r}, which does not exist. Use one of {', '.join(QUANTIZERS)}, or add "
                "a class of yours to titok_hf.quantization_titok.QUANTIZERS first."
            )
        for name in _SIZES:
            whole_number(name, getattr(self, name), highest=LARGEST_SIZE)
        for name in ("layer_norm_eps", "commitment_cost", "initializer_range"):
            real_number(name, getattr(self, name), lowest=0)
        for side in ("encoder", "decoder"):
            whole_number(f"{side}_num_hidden_layers", getattr(self, f"{side}_num_hidden_layers"), 1, LARGEST_DEPTH)
            real_number("mlp_ratio", self.mlp_ratio, 1 / getattr(self, f"{side}_hidden_size"), 2**10)
            patch_size = getattr(self, f"{side}_patch_size")
            if self.image_size % patch_size:
                raise ValueError(
                    f"image_size {self.image_size} is not a multiple of {side}_patch_size {patch_size}. "
                    "Choose a patch size that divides the image."
                )
            hidden_size, heads = getattr(self, f"{side}_hidden_size"), getattr(self, f"{side}_num_attention_heads")
            if hidden_size % heads:
                raise ValueError(
                    f"{side}_hidden_size {hidden_size} is not a multiple of {side}_num_attention_heads {heads}."
                )
        if self.pixel_decoder is not None:
            self._validate_pixel_decoder()

    def _validate_pixel_decoder(self) -> None:
        if self.decoder_head != "proxy_codes":
            raise ValueError(
                f"decoder_head {self.decoder_head!r} has no use for a pixel_decoder. "
                'Set decoder_head="proxy_codes", or pixel_decoder=None.'
            )
        if not self.has_codebook:
            raise ValueError(
                f'pixel_decoder needs codes, and quantizer={self.quantizer!r} has none. Set decoder_head="pixels".'
            )
        pixel_decoder = cast(MaskGitVQGANConfig, self.pixel_decoder)  # `__post_init__` converts a dict
        stride, codebook_size = pixel_decoder.downsample_factor, pixel_decoder.codebook_size
        if stride != self.decoder_patch_size:
            raise ValueError(
                f"pixel_decoder enlarges {stride} times, but decoder_patch_size is {self.decoder_patch_size}. "
                "They must be equal for the image to keep its size."
            )
        if codebook_size != self.proxy_codebook_size:
            raise ValueError(
                f"pixel_decoder has {codebook_size} codes, but proxy_codebook_size is {self.proxy_codebook_size}."
            )


__all__ = ["TITOK_VARIANTS", "VIT_SIZES", "TiTokConfig"]
