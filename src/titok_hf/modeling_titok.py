"""TiTok: an image is a short sequence of tokens (arXiv 2406.07550). Encoder, decoder, and the two with a quantiser."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .checkpoints.mixin import CheckpointMixin
from .configuration_maskgit_vqgan import MaskGitVQGANConfig
from .configuration_titok import TiTokConfig
from .modeling_maskgit_vqgan import MaskGitVQGANDecoder
from .quantization_titok import QUANTIZERS, QuantizerOutput


@dataclass
class TiTokEncoderOutput(QuantizerOutput):
    """
    Output of [`TiTokModel.encode`]: the fields of [`QuantizerOutput`], then the encoder's.

    Args:
        hidden_states, attentions (tuples of `torch.FloatTensor`, *optional*): the encoder's, on request.
    """

    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class TiTokDecoderOutput(ModelOutput):
    """
    Output of [`TiTokDecoder`] and [`TiTokModel.decode`].

    Args:
        pixel_values (`torch.FloatTensor` of shape `(batch, num_channels, image_size, image_size)`, *optional*): the
            images, nominally in [0, 1], not clamped. None for stage-1 models, which end in `logits`.
        logits (`torch.FloatTensor` of shape `(batch, num_patches, proxy_codebook_size)`, *optional*): scores of the
            MaskGIT-VQGAN codes of each patch in raster order. None for models that predict pixels directly.
        hidden_states, attentions (tuples of `torch.FloatTensor`, *optional*): the decoder's, on request.
    """

    pixel_values: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class TiTokOutput(TiTokEncoderOutput, TiTokDecoderOutput):
    """
    Reconstruction of a batch of images: the fields of [`TiTokDecoderOutput`], then those of [`TiTokEncoderOutput`].

    Args:
        hidden_states, attentions (tuples of `torch.FloatTensor`, *optional*): the encoder's, on request.
        decoder_hidden_states, decoder_attentions (tuples of `torch.FloatTensor`, *optional*): the decoder's.
    """

    decoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    decoder_attentions: tuple[torch.FloatTensor, ...] | None = None


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(Q K^T / sqrt(d)) V, written out so that the weights can be returned. Heads on axis 1."""
    attention_weights = (query @ key.transpose(2, 3) * scaling).softmax(dim=-1)
    return (attention_weights @ value).transpose(1, 2), attention_weights


class TiTokQueryKeyValue(nn.Linear):
    """One matrix for queries, keys and values. A class of its own, because it has an initialisation of its own."""


class TiTokAttention(nn.Module):
    """Multi-head self-attention over all tokens, without a mask."""

    def __init__(self, config: TiTokConfig, hidden_size: int, num_attention_heads: int):
        super().__init__()
        self.config = config
        self.head_dim = hidden_size // num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.qkv_proj = TiTokQueryKeyValue(hidden_size, 3 * hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        batch_size, length, hidden_size = hidden_states.shape
        qkv = self.qkv_proj(hidden_states).view(batch_size, length, 3, -1, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, length, head_dim)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attention(self, query, key, value, None, scaling=self.scaling, **kwargs)
        return self.out_proj(output.reshape(batch_size, length, hidden_size)), weights


class TiTokMLP(nn.Module):
    """Two linear maps with an exact GELU between them."""

    def __init__(self, config: TiTokConfig, hidden_size: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, int(hidden_size * config.mlp_ratio))
        self.fc2 = nn.Linear(int(hidden_size * config.mlp_ratio), hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(hidden_states)))


class TiTokLayer(GradientCheckpointingLayer):
    """Pre-norm transformer block."""

    def __init__(self, config: TiTokConfig, hidden_size: int, num_attention_heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attention = TiTokAttention(config, hidden_size, num_attention_heads)
        self.norm2 = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mlp = TiTokMLP(config, hidden_size)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        hidden_states = hidden_states + self.attention(self.norm1(hidden_states), **kwargs)[0]
        return hidden_states + self.mlp(self.norm2(hidden_states))


class TiTokPreTrainedModel(PreTrainedModel):
    """Weight initialisation and the attributes that `PreTrainedModel` reads."""

    config: TiTokConfig
    base_model_prefix = "titok"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["TiTokLayer", "MaskGitVQGANDecoder"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": TiTokLayer, "attentions": TiTokAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As the original. Each rule sets parameters of the module itself: transformers skips modules without any."""
        if isinstance(module, (TiTokEncoder, TiTokDecoder)):
            for parameter in module.parameters(recurse=False):
                init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        elif isinstance(module, TiTokQueryKeyValue):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):  # a codebook
            bound = 1 / module.num_embeddings
            init.uniform_(module.weight, -bound, bound)
        else:
            super()._init_weights(module)


class TiTokEncoder(TiTokPreTrainedModel):
    """
    Paper eq. 4: Z = Enc(P (+) L). A ViT over class token, patches and latent tokens, which returns the latent tokens.

    The checkpoints l32, b64 and s128 were trained with a reshape in place of a transpose before the last projection,
    which mixes channels and tokens. `legacy_latent_layout` repeats it.
    """

    _input_embed_layer = "patch_embedding"

    def __init__(self, config: TiTokConfig):
        super().__init__(config)
        hidden_size, patch_size = config.encoder_hidden_size, config.encoder_patch_size
        num_patches = (config.image_size // patch_size) ** 2
        output_size = QUANTIZERS[config.quantizer].encoder_channels(config)

        self.patch_embedding = nn.Conv2d(config.num_channels, hidden_size, kernel_size=patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.empty(1, hidden_size))
        self.position_embedding = nn.Parameter(torch.empty(1 + num_patches, hidden_size))
        self.latent_tokens = nn.Parameter(torch.empty(config.num_latent_tokens, hidden_size))
        self.latent_position_embedding = nn.Parameter(torch.empty(config.num_latent_tokens, hidden_size))
        self.pre_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(
            TiTokLayer(config, hidden_size, config.encoder_num_attention_heads)
            for _ in range(config.encoder_num_hidden_layers)
        )
        self.post_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.output_projection = nn.Linear(hidden_size, output_size)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> BaseModelOutput:
        """
        Args:
            pixel_values: images, float, shape (batch, num_channels, image_size, image_size), values in [0, 1].
        Returns:
            `last_hidden_state`, the tokens before quantisation, shape (batch, num_latent_tokens, codebook_dim); KL
            models have twice as many channels.
        """
        pixel_values = pixel_values.to(self.class_token.dtype)  # a weight matrix may be stored in 8 bits
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)  # (B, N, D)
        batch_size = patches.shape[0]
        class_token = self.class_token.expand(batch_size, -1, -1)
        image = torch.cat([class_token, patches], dim=1) + self.position_embedding  # (B, 1 + N, D)
        latents = (self.latent_tokens + self.latent_position_embedding).expand(batch_size, -1, -1)  # (B, K, D)

        hidden_states = self.pre_norm(torch.cat([image, latents], dim=1))
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        latents = self.post_norm(hidden_states[:, image.shape[1] :])

        if self.config.legacy_latent_layout:
            latents = latents.reshape(batch_size, latents.shape[2], latents.shape[1]).transpose(1, 2)
        return BaseModelOutput(last_hidden_state=self.output_projection(latents))


class TiTokPixelHead(nn.Module):
    """Head of the single-stage models: each hidden state becomes a patch; a convolution smooths their borders."""

    def __init__(self, config: TiTokConfig):
        super().__init__()
        self.patch_size = config.decoder_patch_size
        self.grid_size = config.image_size // self.patch_size
        self.projection = nn.Linear(config.decoder_hidden_size, self.patch_size**2 * config.num_channels)
        self.convolution = nn.Conv2d(config.num_channels, config.num_channels, kernel_size=3, padding=1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, num_patches, hidden_size) -> (batch, num_channels, image_size, image_size), not clamped."""
        grid, patch = self.grid_size, self.patch_size
        # (B, h, w, p1, p2, C) -> (B, C, h, p1, w, p2)
        patches = self.projection(hidden_states).unflatten(1, (grid, grid)).unflatten(3, (patch, patch, -1))
        return self.convolution(patches.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3))


class TiTokProxyCodeHead(nn.Module):
    """Head of the two-stage models: scores of the MaskGIT-VQGAN codes of each patch (paper, section 3.3)."""

    def __init__(self, config: TiTokConfig):
        super().__init__()
        self.dense = nn.Linear(config.decoder_hidden_size, 2 * config.decoder_hidden_size)
        self.classifier = nn.Linear(2 * config.decoder_hidden_size, config.proxy_codebook_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, num_patches, hidden_size) -> (batch, num_patches, proxy_codebook_size)."""
        return self.classifier(self.dense(hidden_states).tanh())


class TiTokDecoder(TiTokPreTrainedModel):
    """Paper eq. 5: Dec(Quant(Z) (+) M). A ViT over class token, one mask token for each patch, and latent tokens."""

    main_input_name = "latents"
    _input_embed_layer = "input_projection"

    def __init__(self, config: TiTokConfig):
        super().__init__(config)
        hidden_size = config.decoder_hidden_size
        self.num_patches = (config.image_size // config.decoder_patch_size) ** 2

        self.input_projection = nn.Linear(config.codebook_dim, hidden_size)
        self.class_token = nn.Parameter(torch.empty(1, hidden_size))
        self.mask_token = nn.Parameter(torch.empty(1, 1, hidden_size))
        self.position_embedding = nn.Parameter(torch.empty(1 + self.num_patches, hidden_size))
        self.latent_position_embedding = nn.Parameter(torch.empty(config.num_latent_tokens, hidden_size))
        self.pre_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(
            TiTokLayer(config, hidden_size, config.decoder_num_attention_heads)
            for _ in range(config.decoder_num_hidden_layers)
        )
        self.post_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.head = TiTokPixelHead(config) if config.decoder_head == "pixels" else TiTokProxyCodeHead(config)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, latents: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> TiTokDecoderOutput:
        """
        Args:
            latents: quantised tokens, float, shape (batch, num_latent_tokens, codebook_dim), or the first of them.
        Returns:
            `pixel_values`, nominally in [0, 1], not clamped, with the head `"pixels"`; `logits` with `"proxy_codes"`.
        """
        latents = self.input_projection(latents.to(self.class_token.dtype))  # (B, K, D)
        latents = latents + self.latent_position_embedding[: latents.shape[1]]
        batch_size = latents.shape[0]
        class_token = self.class_token.expand(batch_size, -1, -1)
        mask_tokens = self.mask_token.expand(batch_size, self.num_patches, -1)
        image = torch.cat([class_token, mask_tokens], dim=1) + self.position_embedding  # (B, 1 + N, D)

        hidden_states = self.pre_norm(torch.cat([image, latents], dim=1))
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        prediction = self.head(self.post_norm(hidden_states[:, 1 : 1 + self.num_patches]))
        if self.config.decoder_head == "pixels":
            return TiTokDecoderOutput(pixel_values=prediction)
        return TiTokDecoderOutput(logits=prediction)


class TiTokPixelDecoder(nn.Module):
    """Stage 2 of the two-stage models: soft proxy codes, then the convolutional decoder of the MaskGIT-VQGAN."""

    def __init__(self, config: TiTokConfig):
        super().__init__()
        self.grid_size = config.image_size // config.decoder_patch_size
        vqgan_config = cast(MaskGitVQGANConfig, config.pixel_decoder)
        self.codebook = nn.Embedding(config.proxy_codebook_size, vqgan_config.codebook_dim)
        self.decoder = MaskGitVQGANDecoder(vqgan_config)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """(batch, num_patches, proxy_codebook_size) -> (batch, num_channels, image_size, image_size), not clamped."""
        # The expectation over codes, not the most likely one, so that gradients reach the logits.
        # Through the codebook's forward, because only then offloaded or sharded weights are loaded.
        entries = self.codebook(torch.arange(self.codebook.num_embeddings, device=logits.device))
        soft_codes = logits.softmax(dim=-1) @ entries
        return self.decoder(soft_codes.transpose(1, 2).unflatten(2, (self.grid_size, self.grid_size)))


class TiTokModel(CheckpointMixin, TiTokPreTrainedModel):
    """
    Turns square images into `num_latent_tokens` codes (or continuous tokens) and back. Input images are floats in
    [0, 1]. Output images are floats, nominally in [0, 1], and not clamped; `TiTokImageProcessor.post_process` clamps
    them.

    Example:
        >>> model = TiTokModel.from_pretrained(bundled_checkpoint() / "tokenizer")
        >>> codes = model.encode(pixel_values).codes          # (batch, num_latent_tokens)
        >>> images = model.decode(codes=codes).pixel_values   # (batch, channels, height, width)
    """

    def __init__(self, config: TiTokConfig):
        super().__init__(config)
        self.encoder = TiTokEncoder(config)
        self.quantizer = QUANTIZERS[config.quantizer](config)
        if config.has_codebook and self.quantizer.num_tokens != config.codebook_size:
            raise ValueError(
                f"codebook_size is {config.codebook_size}, but the quantiser {config.quantizer!r} has "
                f"{self.quantizer.num_tokens} codes. Make them equal."
            )
        self.decoder = TiTokDecoder(config)
        self.pixel_decoder = None if config.pixel_decoder is None else TiTokPixelDecoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding; adapters on a frozen model need gradients of its output."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the patch embedding."""
        self.encoder.set_input_embeddings(value)

    @can_return_tuple
    def encode(
        self,
        pixel_values: torch.Tensor,
        return_loss: bool = False,
        sample_posterior: bool = True,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_tokens: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TiTokEncoderOutput:
        """
        Images to tokens.

        Args:
            pixel_values: float, shape (batch, num_channels, image_size, image_size), values in [0, 1]. The values are
                not checked, which would wait for the device; [`TiTokPipeline.encode`] checks them.
            return_loss: whether to compute the quantiser's losses.
            sample_posterior, generator: for KL models, whether the tokens are a sample or the mean, and the source of
                the noise (a list has one for each image). VQ models ignore them.
            num_tokens: how many of the first tokens are kept, for models trained with tail drop; None keeps all. The
                tokens are equal to the first ones of all tokens.

        Raises:
            ValueError: images of another size or number of channels than the model's, or not floats; a `num_tokens`
                that the model cannot decode; or (in evaluation mode on the CPU, where the check does not wait for a
                device) tokens that are not finite.
        """
        self.config.check_pixel_values(pixel_values)
        num_kept = self.config.checked_num_tokens(num_tokens)
        encoded = self.encoder(pixel_values, return_dict=True, **kwargs)
        tokens = self.quantizer(encoded.last_hidden_state, return_loss, sample_posterior, generator)
        self.quantizer.check_finite(tokens.latents)
        if num_kept < self.config.num_latent_tokens:
            tokens = self.quantizer.keep_first(tokens, num_kept)
        return TiTokEncoderOutput(**tokens, hidden_states=encoded.hidden_states, attentions=encoded.attentions)

    @can_return_tuple
    def decode(
        self,
        codes: torch.Tensor | None = None,
        latents: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TiTokDecoderOutput:
        """
        Tokens to images, from either form.

        Args:
            codes: integers, shape (batch, num_latent_tokens), values in [0, codebook_size); VQ models only. The range
                is checked, which waits for the device, unless the model is compiled or exported.
            latents: float, shape (batch, num_latent_tokens, codebook_dim), as `encode` returns them.

        Models trained with tail drop (`config.tail_drop`) also decode the first n tokens, n from 1 to
        `num_latent_tokens`.

        Raises:
            ValueError: neither or both of the two, codes for a KL model, a wrong shape or dtype, or codes outside the
                codebook.
        """
        if (codes is None) == (latents is None):
            raise ValueError("decode needs exactly one of codes and latents. Pass encode(...).codes or .latents.")
        if codes is not None:
            latents = self.quantizer.lookup(self.config.checked_codes(codes))
        self.config.check_latents(latents)
        decoded = self.decoder(latents, return_dict=True, **kwargs)
        if self.pixel_decoder is None:
            return decoded
        pixel_values = self.pixel_decoder(decoded.logits)
        return TiTokDecoderOutput(pixel_values, decoded.logits, decoded.hidden_states, decoded.attentions)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        return_loss: bool = False,
        sample_posterior: bool = True,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_tokens: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TiTokOutput:
        """
        Reconstruction: `decode(latents=encode(pixel_values).latents)`. Arguments and errors are those of `encode`;
        `loss` is the quantiser's alone.
        """
        encoded = self.encode(
            pixel_values, return_loss, sample_posterior, generator, num_tokens, return_dict=True, **kwargs
        )
        decoded = self.decode(latents=encoded.latents, return_dict=True, **kwargs)
        return TiTokOutput(
            **encoded,
            pixel_values=decoded.pixel_values,
            logits=decoded.logits,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
        )


__all__ = [
    "TiTokDecoder",
    "TiTokDecoderOutput",
    "TiTokEncoder",
    "TiTokEncoderOutput",
    "TiTokModel",
    "TiTokOutput",
    "TiTokPreTrainedModel",
]
