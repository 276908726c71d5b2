"""The original implementation's way to compute TiTok, in plain PyTorch: what the benchmarks compare with.

The same mathematics as the package, with the operations that bytedance/1d-tokenizer (commit 942a96f) chooses:
`nn.MultiheadAttention` with the tokens on the first axis, the BERT of transformers, `F.pad` before convolutions,
memory in the order of PyTorch's default, two passes of the generator for guidance, a sampling loop that reads values
from the device, and pickled weights that replace random ones. Parameters have the original's names, so that weights
of the package are translated by `titok_hf.original` and outputs can be compared.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertModel

from titok_hf import MaskGitTransformer1DModel, TiTokModel
from titok_hf.original import generator_adapter, titok_adapter


class Layer(nn.Module):
    """Pre-norm transformer block over (tokens, batch, width)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, num_heads)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        normalised = self.ln_1(tokens)
        tokens = tokens + self.attn(normalised, normalised, normalised, need_weights=False)[0]
        return tokens + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(tokens))))


class ViT(nn.Module):
    """What encoder and decoder share: class token, positions and layers."""

    def __init__(self, config: Any, side: str) -> None:
        super().__init__()
        width = getattr(config, f"{side}_hidden_size")
        self.num_patches = (config.image_size // getattr(config, f"{side}_patch_size")) ** 2
        self.grid = math.isqrt(self.num_patches)
        self.class_embedding = nn.Parameter(torch.empty(1, width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + self.num_patches, width))
        self.latent_token_positional_embedding = nn.Parameter(torch.empty(config.num_latent_tokens, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        heads = getattr(config, f"{side}_num_attention_heads")
        self.transformer = nn.ModuleList(
            Layer(width, heads) for _ in range(getattr(config, f"{side}_num_hidden_layers"))
        )

    def attend(self, patches: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """All tokens after the layers, (batch, 1 + patches + latents, width)."""
        image = torch.cat([self.class_embedding.expand(len(patches), 1, -1), patches], dim=1)
        latents = latents + self.latent_token_positional_embedding
        tokens = self.ln_pre(torch.cat([image + self.positional_embedding, latents], dim=1)).permute(1, 0, 2)
        for layer in self.transformer:
            tokens = layer(tokens)
        return tokens.permute(1, 0, 2)


class Encoder(ViT):
    def __init__(self, config: Any) -> None:
        super().__init__(config, "encoder")
        width, patch = config.encoder_hidden_size, config.encoder_patch_size
        self.legacy = config.legacy_latent_layout
        self.patch_embed = nn.Conv2d(3, width, patch, stride=patch)
        self.conv_out = nn.Conv2d(width, config.codebook_dim, 1)

    def forward(self, images: torch.Tensor, latent_tokens: torch.Tensor) -> torch.Tensor:
        """(batch, 3, height, width) -> (batch, codebook_dim, 1, latent tokens)."""
        patches = self.patch_embed(images).flatten(2).permute(0, 2, 1)
        tokens = self.attend(patches, latent_tokens.expand(len(images), -1, -1))
        latents = self.ln_post(tokens[:, 1 + self.num_patches :])
        batch, length, width = latents.shape
        if self.legacy:
            latents = latents.reshape(batch, width, length, 1)
        else:
            latents = latents.reshape(batch, length, width, 1).permute(0, 2, 1, 3)
        return self.conv_out(latents).reshape(batch, -1, 1, length)


class Decoder(ViT):
    def __init__(self, config: Any) -> None:
        super().__init__(config, "decoder")
        width, patch = config.decoder_hidden_size, config.decoder_patch_size
        self.patch = patch
        self.decoder_embed = nn.Linear(config.codebook_dim, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        if config.decoder_head == "pixels":
            self.ffn = nn.ModuleList([nn.Conv2d(width, 3 * patch**2, 1)])
            self.conv_out = nn.Conv2d(3, 3, 3, padding=1)
        else:
            codes = config.proxy_codebook_size
            self.ffn = nn.ModuleList([nn.Conv2d(width, 2 * width, 1), nn.Tanh(), nn.Conv2d(2 * width, codes, 1)])
            self.conv_out = nn.Identity()

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """(batch, codebook_dim, 1, latent tokens) -> pixels, or logits (batch, codes, grid, grid)."""
        latents = self.decoder_embed(latents.flatten(1, 2).permute(0, 2, 1))
        tokens = self.attend(self.mask_token.repeat(len(latents), self.num_patches, 1), latents)
        hidden = self.ln_post(tokens[:, 1 : 1 + self.num_patches]).permute(0, 2, 1)
        hidden = hidden.reshape(len(latents), -1, self.grid, self.grid).contiguous()
        for layer in self.ffn:
            hidden = layer(hidden)
        if isinstance(self.conv_out, nn.Conv2d):  # (p1 p2 c) of each patch -> pixels
            hidden = hidden.unflatten(1, (self.patch, self.patch, 3)).permute(0, 3, 4, 1, 5, 2)
            hidden = hidden.flatten(4, 5).flatten(2, 3)
        return self.conv_out(hidden)


class PaddedConvolution(nn.Conv2d):
    """A convolution whose border is added by `F.pad`."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        border = self.kernel_size[0] // 2
        return super().forward(F.pad(features, [border] * 4) if border else features)


class Residual(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, before, eps=1e-6), nn.GroupNorm(32, after, eps=1e-6)
        self.conv1 = PaddedConvolution(before, after, 3, bias=False)
        self.conv2 = PaddedConvolution(after, after, 3, bias=False)
        if before != after:
            self.nin_shortcut = PaddedConvolution(after, after, 1, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(features))))))
        return hidden + (self.nin_shortcut(hidden) if hasattr(self, "nin_shortcut") else features)


class UpBlock(nn.Module):
    def __init__(self, before: int, after: int, depth: int, upsample: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(Residual(before if index == 0 else after, after) for index in range(depth))
        if upsample:
            self.upsample_conv = PaddedConvolution(after, after, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        for block in self.block:
            features = block(features)
        if hasattr(self, "upsample_conv"):
            features = self.upsample_conv(F.interpolate(features, scale_factor=2.0, mode="nearest"))
        return features


class PixelDecoder(nn.Module):
    """The convolutional decoder of the MaskGIT-VQGAN; levels are numbered from the finest."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        widths, depth = config.level_channels, config.num_resnet_blocks
        self.conv_in = PaddedConvolution(config.codebook_dim, widths[-1], 3)
        self.mid = nn.ModuleList(Residual(widths[-1], widths[-1]) for _ in range(depth))
        before = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(UpBlock(before[i], widths[i], depth, upsample=i > 0) for i in range(len(widths)))
        self.norm_out = nn.GroupNorm(32, widths[0], eps=1e-6)
        self.conv_out = PaddedConvolution(widths[0], 3, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = self.conv_in(features)
        for block in (*self.mid, *reversed(self.up)):
            features = block(features)
        return self.conv_out(F.silu(self.norm_out(features)))


class Tokenizer(nn.Module):
    """Encoder, codebook and decoder, from a configuration of the package with a codebook."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.l2_norm = config.codebook_l2_norm
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.latent_tokens = nn.Parameter(torch.empty(config.num_latent_tokens, config.encoder_hidden_size))
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding(config.codebook_size, config.codebook_dim)})
        self.pixel_decoder = None
        if config.pixel_decoder is not None:
            size = (config.proxy_codebook_size, config.pixel_decoder.codebook_dim)
            self.pixel_quantize = nn.ModuleDict({"embedding": nn.Embedding(*size)})
            self.pixel_decoder = PixelDecoder(config.pixel_decoder)

    @classmethod
    def like(cls, model: TiTokModel) -> "Tokenizer":
        """With copies of a model's weights, on its device and in its dtype."""
        with torch.device("meta"):
            tokenizer = cls(model.config)
        state = model.state_dict()
        original = titok_adapter(model.config, state).to_original(state)
        tokenizer.load_state_dict({name: tensor.clone() for name, tensor in original.items()}, assign=True)
        return tokenizer.eval().requires_grad_(False)

    def initialise(self) -> None:
        """Random numbers in all weights, as the original draws them before it loads a checkpoint."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
                nn.init.trunc_normal_(module.weight, std=0.02)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Codes, (batch, latent tokens)."""
        latents = self.encoder(images, self.latent_tokens).permute(0, 2, 3, 1).contiguous().float()
        tokens, entries = latents.flatten(0, 2), self.quantize["embedding"].weight.float()
        if self.l2_norm:
            tokens, entries = F.normalize(tokens, dim=-1), F.normalize(entries, dim=-1)
        distances = tokens.square().sum(dim=1, keepdim=True) + entries.square().sum(dim=1)
        distances = distances - 2 * torch.einsum("bd,dn->bn", tokens, entries.T)
        return distances.argmin(dim=1).view(len(images), -1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Pixels, not clamped, (batch, 3, height, width)."""
        latents = self.quantize["embedding"](codes)
        if self.l2_norm:
            latents = F.normalize(latents, dim=-1)
        decoded = self.decoder(latents[:, None].permute(0, 3, 1, 2).contiguous())
        if self.pixel_decoder is None:
            return decoded
        entries = self.pixel_quantize["embedding"].weight
        return self.pixel_decoder(torch.einsum("nchw,cd->ndhw", decoded.softmax(1), entries))


class Sampler(nn.Module):
    """What both generators share: the class token and the sampling loop."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.codes, self.classes, self.length = config.codebook_size, config.num_classes, config.num_latent_tokens

    @classmethod
    def like(cls, model: MaskGitTransformer1DModel) -> "Sampler":
        """With copies of a model's weights, on its device and in its dtype."""
        kind = Bert if model.config.architecture == "vit" else UViT
        generator = kind(model.config).to(model.device, model.dtype)
        state = model.state_dict()
        original = generator_adapter(model.config, state).to_original(state)
        generator.load_state_dict(original, strict=False)  # a BERT has buffers of its own
        return generator.eval().requires_grad_(False)

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Of the codes, for (batch, 1 + latent tokens), the class token first."""
        raise NotImplementedError

    def predict(self, codes: torch.Tensor, labels: torch.Tensor, drop: float) -> torch.Tensor:
        """Logits; a class is dropped with probability `drop`."""
        # From a generator of its own, so that the noise is that of the package for the same seed.
        rng = torch.Generator(labels.device)
        dropped = torch.rand(labels.shape, generator=rng, device=labels.device) < drop
        condition = labels + self.codes + 1
        condition[dropped] = self.classes + self.codes + 1
        return self.logits(torch.cat([condition[:, None], codes], dim=1))

    @torch.no_grad()
    def generate(
        self,
        labels: torch.Tensor,
        num_steps: int = 8,
        scale: float = 4.5,
        temperature: float = 9.5,
        decay: str = "linear",
        annealing: bool = True,
    ) -> torch.Tensor:
        """Codes of one image for each label; `scale` is 0 for no guidance, but 1 with the decay "power-cosine"."""
        device = labels.device
        codes = torch.full((len(labels), self.length), self.codes, device=device)
        step_scale = 0.0
        for step in range(num_steps):
            ratio = (step + 1) / num_steps
            step_temperature = temperature * (1 - ratio)
            masked = codes == self.codes
            if decay == "power-cosine":
                angle = (step / num_steps) ** (torch.ones(1, device=device) * 3.0) * torch.pi
                step_scale = (scale - 1) * (1 - torch.cos(angle)) / 2 + 1
            logits = self.predict(codes, labels, 0.0)
            if step_scale != 0:
                unconditional = self.predict(codes, labels, 1.0)
                base = unconditional if decay == "power-cosine" else logits
                logits = base + (logits - unconditional) * step_scale
            if annealing:
                logits = logits / (0.5 + 0.8 * (1 - ratio))
            drawn = (logits + step_temperature * gumbel_like(logits)).argmax(dim=-1)
            confidence = logits.gather(-1, drawn[..., None])[..., 0]
            drawn = torch.where(masked, drawn, codes)
            confidence = torch.where(masked, confidence, float("inf")).float()
            share = math.acos(ratio) / (math.pi / 2)
            length = torch.Tensor([math.floor(self.length * share)]).to(device)
            length = torch.minimum(masked.sum(dim=-1, keepdim=True) - 1, length)
            length = torch.maximum(torch.Tensor([1]).to(device), length)[0].squeeze().long()
            confidence = confidence + step_temperature * gumbel_like(confidence)
            cut = confidence.sort(dim=-1).values[:, length - 1 : length]  # waits for the device
            codes = drawn if step == num_steps - 1 else torch.where(confidence <= cut, self.codes, drawn)
            if decay == "linear":
                step_scale = ratio * scale
        return codes


def gumbel_like(tensor: torch.Tensor) -> torch.Tensor:
    """Gumbel noise of a tensor's shape, from the default generator."""
    uniforms = torch.zeros_like(tensor).uniform_(0, 1)
    return -(-uniforms.clamp(min=1e-20).log()).clamp(min=1e-20).log()


class Bert(Sampler):
    """The generators of L-32 and B-64."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        bert = BertConfig(
            vocab_size=config.codebook_size + config.num_classes + 2,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.num_latent_tokens + 1,
            layer_norm_eps=1e-12,
        )
        self.model = BertModel(bert, add_pooling_layer=False)
        self.model.lm_head = nn.Linear(config.hidden_size, config.codebook_size)

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.lm_head(self.model(input_ids=tokens)[0][:, 1:])


class UViTBlock(nn.Module):
    def __init__(self, width: int, num_heads: int, inner: int, skip: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width, bias=False), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})
        self.skip_linear = nn.Linear(2 * width, width) if skip else None

    def forward(self, tokens: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        if self.skip_linear is not None:
            tokens = self.skip_linear(torch.cat([tokens, skip], dim=-1))
        qkv = self.attn["qkv"](self.norm1(tokens)).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*qkv.float()).transpose(1, 2).flatten(2)
        tokens = tokens + self.attn["proj"](attended.to(tokens.dtype))
        return tokens + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(tokens))))


class UViT(Sampler):
    """The generator of S-128."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        width, depth = config.hidden_size, config.num_hidden_layers // 2
        sizes = (width, config.num_attention_heads, config.intermediate_size)
        self.embeddings = nn.Embedding(config.codebook_size + config.num_classes + 2, width)
        self.pos_embed = nn.Parameter(torch.empty(1, config.num_latent_tokens + 1, width))
        self.in_blocks = nn.ModuleList(UViTBlock(*sizes, skip=False) for _ in range(depth))
        self.mid_block = UViTBlock(*sizes, skip=False)
        self.out_blocks = nn.ModuleList(UViTBlock(*sizes, skip=True) for _ in range(depth))
        self.norm, self.lm_head = nn.LayerNorm(width), nn.Linear(width, config.codebook_size)

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embeddings(tokens) + self.pos_embed
        skips = []
        for block in self.in_blocks:
            hidden = block(hidden)
            skips.append(hidden)
        hidden = self.mid_block(hidden)
        for block in self.out_blocks:
            hidden = block(hidden, skips.pop())
        return self.lm_head(self.norm(hidden)[:, 1:])


def class_to_images(generator: Sampler, tokenizer: Tokenizer, labels: torch.Tensor, **settings: Any) -> torch.Tensor:
    """8-bit images of classes on the CPU, (batch, height, width, 3), as the original's demo makes them."""
    codes = generator.generate(labels, **settings)
    pixels = tokenizer.decode(codes).clamp(0, 1).float()
    return (pixels * 255).permute(0, 2, 3, 1).to("cpu", torch.uint8)
