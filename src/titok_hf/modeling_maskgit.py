"""The generator: a bidirectional transformer that predicts masked codes of an image from the others and a class.

MaskGIT (arXiv 2202.04200) over TiTok's one-dimensional codes (arXiv 2406.07550), in the two published
architectures: a BERT (arXiv 1810.04805), called ViT in the TiTok paper, and a U-ViT (arXiv 2209.12152).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin, AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.utils import BaseOutput
from torch import nn
from transformers.utils.generic import maybe_autocast

from .checkpoints.mixin import CheckpointMixin
from .configuration_maskgit import MASKGIT_VARIANTS, checked_fields, checked_ids


@dataclass
class MaskGitTransformer1DOutput(BaseOutput):
    """
    Args:
        logits (`torch.FloatTensor` of shape `(batch, num_latent_tokens, codebook_size)`): unnormalised log-probability
            of each code at each position; mask and class tokens have no logits.
    """

    logits: torch.FloatTensor


class MaskGitAttnProcessor:
    """Computes attention by the backend that diffusers' `set_attention_backend` or `attention_backend` names."""

    _attention_backend: Any = None  # set by `set_attention_backend`; None is PyTorch's scaled dot product attention
    _parallel_config: Any = None

    def __call__(self, attention: MaskGitAttention, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, hidden_size) -> the same shape and dtype."""
        qkv = attention.qkv_proj(hidden_states)
        heads = qkv.unflatten(2, (3, attention.num_attention_heads, -1))  # (B, L, 3, heads, d)
        if attention.float32_attention:
            with maybe_autocast(heads.device.type, enabled=False):  # autocast would undo the cast to float32
                context = self._dispatch(heads.float(), attention)
        else:
            context = self._dispatch(heads, attention)
        # For half-precision weights after float32 attention; in float32 this changes nothing.
        return attention.out_proj(context.flatten(2).to(qkv.dtype))

    def _dispatch(self, heads: torch.Tensor, attention: MaskGitAttention) -> torch.Tensor:
        """(batch, tokens, 3, heads, head_dim) -> (batch, tokens, heads, head_dim)."""
        query, key, value = heads.unbind(2)
        dropout = attention.dropout if attention.training else 0.0
        backend, parallel_config = self._attention_backend, self._parallel_config
        return dispatch_attention_fn(
            query, key, value, dropout_p=dropout, backend=backend, parallel_config=parallel_config
        )


class MaskGitAttention(nn.Module, AttentionModuleMixin):
    """Multi-head self-attention over all tokens, if asked for in float32 whatever the dtype of the tokens."""

    _default_processor_cls = MaskGitAttnProcessor
    _available_processors = [MaskGitAttnProcessor]
    _supports_qkv_fusion = False  # they are one projection already

    def __init__(
        self, hidden_size: int, num_attention_heads: int, qkv_bias: bool, dropout: float, float32_attention: bool
    ) -> None:
        super().__init__()
        self.num_attention_heads = num_attention_heads
        self.dropout = dropout
        self.float32_attention = float32_attention
        self.qkv_proj = nn.Linear(hidden_size, 3 * hidden_size, bias=qkv_bias)
        self.out_proj = nn.Linear(hidden_size, hidden_size)
        self.set_processor(MaskGitAttnProcessor())

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, hidden_size) -> the same shape and dtype."""
        return self.processor(self, hidden_states)


class MaskGitMLP(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, hidden_size) -> the same shape."""
        return self.fc2(F.gelu(self.fc1(hidden_states)))


class MaskGitViTLayer(nn.Module):
    """A BERT layer: normalisation after each residual sum."""

    def __init__(self, hidden_size: int, num_attention_heads: int, intermediate_size: int, dropout: float) -> None:
        super().__init__()
        self.attention = MaskGitAttention(
            hidden_size, num_attention_heads, qkv_bias=True, dropout=dropout, float32_attention=False
        )
        self.attention_norm = nn.LayerNorm(hidden_size, eps=1e-12)
        self.mlp = MaskGitMLP(hidden_size, intermediate_size)
        self.mlp_norm = nn.LayerNorm(hidden_size, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, hidden_size) -> the same shape."""
        hidden_states = self.attention_norm(hidden_states + self.dropout(self.attention(hidden_states)))
        return self.mlp_norm(hidden_states + self.dropout(self.mlp(hidden_states)))


class MaskGitUViTBlock(nn.Module):
    """A U-ViT block: normalisation before attention and MLP; blocks of the second half also read a skip connection."""

    def __init__(
        self, hidden_size: int, num_attention_heads: int, intermediate_size: int, dropout: float, skip: bool = False
    ) -> None:
        super().__init__()
        self.skip_proj = nn.Linear(2 * hidden_size, hidden_size) if skip else None
        self.norm1 = nn.LayerNorm(hidden_size)
        # The published weights were trained with attention in float32. It is a small share of the work.
        self.attention = MaskGitAttention(
            hidden_size, num_attention_heads, qkv_bias=False, dropout=dropout, float32_attention=True
        )
        self.norm2 = nn.LayerNorm(hidden_size)
        self.mlp = MaskGitMLP(hidden_size, intermediate_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, tokens, hidden_size), and a `skip` of that shape where the block has one -> the same shape."""
        if self.skip_proj is not None:
            hidden_states = self.skip_proj(torch.cat([hidden_states, skip], dim=-1))
        hidden_states = hidden_states + self.dropout(self.attention(self.norm1(hidden_states)))
        return hidden_states + self.dropout(self.mlp(self.norm2(hidden_states)))


class MaskGitBackbone(nn.Module):
    """What both architectures share: gradient checkpointing."""

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., torch.Tensor]  # set by `enable_gradient_checkpointing`

    def run(self, layer: nn.Module, *hidden_states: torch.Tensor) -> torch.Tensor:
        """`layer(*hidden_states)`, checkpointed if asked for."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(layer, *hidden_states)
        return layer(*hidden_states)


class MaskGitViTBackbone(MaskGitBackbone):
    """BERT's encoder, from summed embeddings to hidden states."""

    def __init__(
        self, hidden_size: int, num_attention_heads: int, intermediate_size: int, dropout: float, num_layers: int
    ) -> None:
        super().__init__()
        # BERT has an embedding for each of two sentences; an image is always the first. The second row is never read,
        # and is kept because the original's checkpoints have it.
        self.token_type_embedding = nn.Parameter(torch.empty(2, hidden_size))
        self.embedding_norm = nn.LayerNorm(hidden_size, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            MaskGitViTLayer(hidden_size, num_attention_heads, intermediate_size, dropout) for _ in range(num_layers)
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, hidden_size) -> the same shape."""
        hidden_states = self.dropout(self.embedding_norm(hidden_states + self.token_type_embedding[0]))
        for layer in self.layers:
            hidden_states = self.run(layer, hidden_states)
        return hidden_states


class MaskGitUViTBackbone(MaskGitBackbone):
    """U-ViT, from summed embeddings to hidden states: skip connections from the first half of `num_layers` blocks to
    the second, and one more block between them.
    """

    def __init__(
        self, hidden_size: int, num_attention_heads: int, intermediate_size: int, dropout: float, num_layers: int
    ) -> None:
        super().__init__()
        sizes = (hidden_size, num_attention_heads, intermediate_size, dropout)
        depth = num_layers // 2
        self.in_blocks = nn.ModuleList(MaskGitUViTBlock(*sizes) for _ in range(depth))
        self.middle_block = MaskGitUViTBlock(*sizes)
        self.out_blocks = nn.ModuleList(MaskGitUViTBlock(*sizes, skip=True) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, hidden_size) -> the same shape."""
        skips = []
        for block in self.in_blocks:
            hidden_states = self.run(block, hidden_states)
            skips.append(hidden_states)
        hidden_states = self.run(self.middle_block, hidden_states)
        for block in self.out_blocks:
            hidden_states = self.run(block, hidden_states, skips.pop())
        return self.norm(hidden_states)


BACKBONES: dict[str, type[MaskGitBackbone]] = {"vit": MaskGitViTBackbone, "uvit": MaskGitUViTBackbone}


class MaskGitTransformer1DModel(CheckpointMixin, ModelMixin, AttentionMixin, ConfigMixin, PeftAdapterMixin):
    """Predicts the codes of an image from those codes that are not masked, and from its class.

    One table embeds codes and classes. Its rows are the codes, the mask token (`codebook_size`), the classes, and last
    the label for no class. The class is one more token in front of the codes; its output is dropped.

    Initial weights are BERT's: normal with standard deviation 0.02, biases 0, normalisations 1.

    Args:
        architecture: `"vit"` (BERT) or `"uvit"`.
        codebook_size: number of codes of the tokenizer.
        num_latent_tokens: number of codes of an image.
        num_classes: number of classes, without the label for no class.
        hidden_size: width of the tokens.
        num_hidden_layers: number of layers; even for U-ViT, which has one more block in the middle.
        num_attention_heads: a divisor of `hidden_size`.
        intermediate_size: width inside the MLPs.
        dropout: probability of dropping an activation or an attention weight in training.

    Raises:
        ValueError: for an unknown architecture, a field of another type or out of range, or sizes that do not fit
            together.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["MaskGitViTLayer", "MaskGitUViTBlock"]
    _repeated_blocks = ["MaskGitViTLayer", "MaskGitUViTBlock"]
    _skip_layerwise_casting_patterns = ["embedding", "norm"]

    @register_to_config
    def __init__(
        self,
        architecture: str = "vit",
        codebook_size: int = 4096,
        num_latent_tokens: int = 32,
        num_classes: int = 1000,
        hidden_size: int = 768,
        num_hidden_layers: int = 24,
        num_attention_heads: int = 16,
        intermediate_size: int = 3072,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        fields = checked_fields(
            architecture=architecture,
            codebook_size=codebook_size,
            num_latent_tokens=num_latent_tokens,
            num_classes=num_classes,
            hidden_size=hidden_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            intermediate_size=intermediate_size,
            dropout=dropout,
        )
        self.register_to_config(**fields)  # as Python numbers: the configuration is saved as JSON
        self.token_embedding = nn.Embedding(codebook_size + 1 + num_classes + 1, hidden_size)
        self.position_embedding = nn.Parameter(torch.empty(1 + num_latent_tokens, hidden_size))
        self.backbone = BACKBONES[architecture](
            hidden_size, num_attention_heads, intermediate_size, dropout, num_hidden_layers
        )
        self.lm_head = nn.Linear(hidden_size, codebook_size)
        self._initialise()

    @classmethod
    def from_variant(cls, name: str, **overrides: Any) -> MaskGitTransformer1DModel:
        """An untrained model of a published size.

        Args:
            name: `"l32"`, `"b64"`, `"s128"`, `"l64_512"` or `"b128_512"`.
            overrides: arguments of the class to change.
        Raises:
            ValueError: no published generator has that name.
        """
        if name not in MASKGIT_VARIANTS:
            raise ValueError(f"No published generator is called {name!r}. Use one of {list(MASKGIT_VARIANTS)}.")
        return cls(**{**MASKGIT_VARIANTS[name], **overrides})

    @property
    def mask_token_id(self) -> int:
        """The id of a masked code: the first one after the codebook."""
        return self.config.codebook_size

    @property
    def null_class_label(self) -> int:
        """The class label for no class, used for guidance."""
        return self.config.num_classes

    @property
    def class_embeddings(self) -> torch.Tensor:
        """The embeddings of the classes, shape (num_classes, hidden_size), without that of no class."""
        return self.token_embedding.weight[self.config.codebook_size + 1 : -1]

    @torch.no_grad()
    def set_class_embeddings(self, embeddings: torch.Tensor) -> None:
        """
        Replace the classes: `num_classes` becomes the number of rows. The last label stays that for no class.

        Args:
            embeddings: float, shape (num_classes, hidden_size).
        Raises:
            ValueError: another shape.
        """
        weight = self.token_embedding.weight
        if embeddings.ndim != 2 or embeddings.shape[1] != weight.shape[1]:
            raise ValueError(
                f"embeddings has shape {tuple(embeddings.shape)}, but (num_classes, {weight.shape[1]}) is expected."
            )
        rows = torch.cat([weight[: self.config.codebook_size + 1], embeddings.to(weight), weight[-1:]])
        table = nn.Embedding(*rows.shape, _weight=rows)
        self.token_embedding = table.requires_grad_(weight.requires_grad).train(self.training)
        self.register_to_config(num_classes=len(embeddings))

    def forward(
        self, input_ids: torch.LongTensor, class_labels: torch.LongTensor, return_dict: bool = True
    ) -> MaskGitTransformer1DOutput | tuple[torch.FloatTensor]:
        """Logits of all codes, also at positions that are not masked.

        Args:
            input_ids: codes, int64, shape (batch, num_latent_tokens), in `[0, codebook_size)`, or `mask_token_id`.
            class_labels: int64, shape (batch,), in `[0, num_classes)`, or `null_class_label` for no class.
            return_dict: whether to return a dataclass rather than a tuple.
        Returns:
            logits, shape (batch, num_latent_tokens, codebook_size), in the model's dtype.
        Raises:
            ValueError: wrong shapes or dtypes, or ids or labels out of range. Ranges are checked on the CPU only: on
                an accelerator each step of sampling would wait for the device.
        """
        input_ids, class_labels = checked_ids(self.config, input_ids, class_labels)
        class_tokens = self.config.codebook_size + 1 + class_labels
        tokens = torch.cat([class_tokens[:, None], input_ids], dim=1)  # (B, 1 + K)
        hidden_states = self.backbone(self.token_embedding(tokens) + self.position_embedding)  # (B, 1 + K, D)
        logits = self.lm_head(hidden_states[:, 1:])
        if not return_dict:
            return (logits,)
        return MaskGitTransformer1DOutput(logits=logits)

    @torch.no_grad()
    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
