"""The original names of our parameters: a table for each model.

An entry is a module if both sides have the same parameter names in it (`weight`, `bias`), else a single tensor.
"""

from collections.abc import Iterator
from typing import cast

from titok_hf.configuration_maskgit_vqgan import MaskGitVQGANConfig
from titok_hf.configuration_titok import TiTokConfig

from .state_dict_adapter import BATCHED, FLAX_KERNEL, POINTWISE, STACKED, KeyMap, Layout, Original

# Our name: the original name.
_VIT = {
    "class_token": "class_embedding",
    "position_embedding": "positional_embedding",
    "latent_position_embedding": "latent_token_positional_embedding",
    "pre_norm": "ln_pre",
    "post_norm": "ln_post",
}
_VIT_LAYER = {
    "norm1": "ln_1",
    "attention.qkv_proj.weight": "attn.in_proj_weight",
    "attention.qkv_proj.bias": "attn.in_proj_bias",
    "attention.out_proj": "attn.out_proj",
    "norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_TITOK = {
    "encoder.latent_tokens": "latent_tokens",
    "encoder.patch_embedding": "encoder.patch_embed",
    "decoder.input_projection": "decoder.decoder_embed",
    "decoder.mask_token": "decoder.mask_token",
    "decoder.head.convolution": "decoder.conv_out",
    "quantizer.codebook": "quantize.embedding",
    "pixel_decoder.codebook": "pixel_quantize.embedding",
}
_TITOK_POINTWISE = {
    "encoder.output_projection": "encoder.conv_out",
    "decoder.head.projection": "decoder.ffn.0",
    "decoder.head.dense": "decoder.ffn.0",
    "decoder.head.classifier": "decoder.ffn.2",
}


def titok_keys(config: TiTokConfig) -> KeyMap:
    """The tokenizers of all kinds; a model has some of these modules."""
    names = dict(_TITOK)
    for side, num_layers in (
        ("encoder", config.encoder_num_hidden_layers),
        ("decoder", config.decoder_num_hidden_layers),
    ):
        names |= below(_VIT, side, side)
        for layer in range(num_layers):
            names |= below(_VIT_LAYER, f"{side}.layers.{layer}", f"{side}.transformer.{layer}")
    if config.pixel_decoder is not None:
        pixel_decoder = cast(MaskGitVQGANConfig, config.pixel_decoder)
        names |= below(_vqgan_decoder(pixel_decoder), "pixel_decoder.decoder", "pixel_decoder")
    return key_map(names) | key_map(_TITOK_POINTWISE, POINTWISE)


_BERT = {
    "token_embedding": "model.embeddings.word_embeddings",
    "position_embedding": "model.embeddings.position_embeddings.weight",
    "backbone.token_type_embedding": "model.embeddings.token_type_embeddings.weight",
    "backbone.embedding_norm": "model.embeddings.LayerNorm",
    "lm_head": "model.lm_head",
}
_BERT_LAYER = {
    "attention.out_proj": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
_UVIT = {
    "token_embedding": "embeddings",
    "backbone.norm": "norm",
    "lm_head": "lm_head",
}
_UVIT_BLOCK = {
    "skip_proj": "skip_linear",
    "norm1": "norm1",
    "attention.qkv_proj": "attn.qkv",
    "attention.out_proj": "attn.proj",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}

# A buffer with 0, 1, 2, ..., which older releases of transformers saved with a BERT.
GENERATOR_IGNORED = ("model.embeddings.position_ids",)


def generator_keys(architecture: str, num_hidden_layers: int) -> KeyMap:
    """The MaskGIT generators. For `"vit"`, a BERT, our layers stack query, key and value projections."""
    if architecture == "vit":
        names, stacked = dict(_BERT), {}
        for layer in range(num_hidden_layers):
            ours, original = f"backbone.layers.{layer}", f"model.encoder.layer.{layer}"
            names |= below(_BERT_LAYER, ours, original)
            projections = tuple(f"{original}.attention.self.{name}" for name in ("query", "key", "value"))
            stacked[f"{ours}.attention.qkv_proj"] = Original(projections, STACKED)
        return key_map(names) | stacked
    names = _UVIT | below(_UVIT_BLOCK, "backbone.middle_block", "mid_block")
    for block in range(num_hidden_layers // 2):
        for half in ("in_blocks", "out_blocks"):
            names |= below(_UVIT_BLOCK, f"backbone.{half}.{block}", f"{half}.{block}")
    return key_map(names) | key_map({"position_embedding": "pos_embed"}, BATCHED)


_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "shortcut": "nin_shortcut",
}


def _vqgan_encoder(config: MaskGitVQGANConfig) -> dict[str, str]:
    names = {"conv_in": "conv_in", "norm_out": "norm_out", "conv_out": "conv_out"}
    for block in range(config.num_resnet_blocks):
        names |= below(_RESNET, f"mid_blocks.{block}", f"mid.{block}")
        for level in range(len(config.channel_multipliers)):
            names |= below(_RESNET, f"down_blocks.{level}.resnets.{block}", f"down.{level}.block.{block}")
    return names


def _vqgan_decoder(config: MaskGitVQGANConfig) -> dict[str, str]:
    """The original numbers the decoder's levels from the finest, we in the order of computation."""
    names = {"conv_in": "conv_in", "norm_out": "norm_out", "conv_out": "conv_out"}
    levels = len(config.channel_multipliers)
    for block in range(config.num_resnet_blocks):
        names |= below(_RESNET, f"mid_blocks.{block}", f"mid.{block}")
        for level in range(levels):
            names |= below(_RESNET, f"up_blocks.{level}.resnets.{block}", f"up.{levels - 1 - level}.block.{block}")
    for level in range(levels):
        names[f"up_blocks.{level}.upsample.conv"] = f"up.{levels - 1 - level}.upsample_conv"
    return names


def maskgit_vqgan_keys(config: MaskGitVQGANConfig) -> KeyMap:
    """The MaskGIT-VQGAN in PyTorch form."""
    return key_map(
        {"quantizer.codebook": "quantize.embedding"}
        | below(_vqgan_encoder(config), "encoder", "encoder")
        | below(_vqgan_decoder(config), "decoder", "decoder")
    )


_FLAX_RESNET = {
    "norm1": "GroupNorm_0",
    "conv1": "Conv_0",
    "norm2": "GroupNorm_1",
    "conv2": "Conv_1",
    "shortcut": "Conv_2",
}


def maskgit_vqgan_flax_keys(config: MaskGitVQGANConfig) -> KeyMap:
    """
    The MaskGIT-VQGAN in Flax form; levels of the tree are joined by slashes. Flax numbers the submodules of a class in
    the order of computation.
    """
    levels, blocks = len(config.channel_multipliers), config.num_resnet_blocks
    convolutions = {
        "encoder.conv_in": "encoder/Conv_0",
        "encoder.conv_out": "encoder/Conv_1",
        "decoder.conv_in": "decoder/Conv_0",
        "decoder.conv_out": f"decoder/Conv_{levels}",
    }
    norms = {"encoder.norm_out": "encoder/GroupNorm_0", "decoder.norm_out": "decoder/GroupNorm_0"}
    for level in range(levels - 1):
        convolutions[f"decoder.up_blocks.{level}.upsample.conv"] = f"decoder/Conv_{1 + level}"
    for ours, flax in _flax_resnets(levels, blocks):
        for part, flax_part in _FLAX_RESNET.items():
            group = norms if part.startswith("norm") else convolutions
            group[f"{ours}.{part}"] = f"{flax}/{flax_part}"
    return (
        key_map({"quantizer.codebook.weight": "params/quantizer/codebook"})
        | key_map({f"{ours}.weight": f"params/{flax}/kernel" for ours, flax in convolutions.items()}, FLAX_KERNEL)
        | key_map({f"{ours}.weight": f"params/{flax}/scale" for ours, flax in norms.items()})
        | key_map({f"{ours}.bias": f"params/{flax}/bias" for ours, flax in (convolutions | norms).items()})
    )


def _flax_resnets(levels: int, blocks: int) -> Iterator[tuple[str, str]]:
    """Residual blocks in the order of computation: the middle is last in the encoder, first in the decoder."""
    middle = [f"mid_blocks.{block}" for block in range(blocks)]
    down = [f"down_blocks.{level}.resnets.{block}" for level in range(levels) for block in range(blocks)]
    up = [f"up_blocks.{level}.resnets.{block}" for level in range(levels) for block in range(blocks)]
    for side, names in (("encoder", down + middle), ("decoder", middle + up)):
        for number, name in enumerate(names):
            yield f"{side}.{name}", f"{side}/ResBlock_{number}"


def below(names: dict[str, str], ours: str, original: str) -> dict[str, str]:
    """The same names inside a module of each side."""
    return {f"{ours}.{name}": f"{original}.{other}" for name, other in names.items()}


def key_map(names: dict[str, str], *layout: Layout) -> KeyMap:
    """A table of single originals with one layout."""
    return {ours: Original((original,), *layout) for ours, original in names.items()}
