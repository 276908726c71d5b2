"""Configurations of the original implementation to ours and back.

The original has one nested file for tokenizer, generator and data set, in which values may be references to others
(`${model.vq_model.num_latent_tokens}`). In older files some keys are missing, whose values were fixed then.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from titok_hf.configuration_titok import VIT_FIELDS, VIT_SIZES, TiTokConfig
from titok_hf.guidance_scales import from_original, original_scale

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
# Configurations have a few hundred values and chains of two references.
_MOST_VALUES, _LONGEST_CHAIN = 10_000, 100
_TOO_LARGE = (
    f"The references (${{...}}) in the original configuration grow into more than {_MOST_VALUES:,} values, or into "
    f"chains of more than {_LONGEST_CHAIN}. Is it damaged?"
)

_QUANTIZERS = {"vq": "vq", "vae": "kl"}
_ARCHITECTURES = {"ViT": "vit", "UViT": "uvit"}

# Fields that do not change a trained network. `patch_size` is only the default of the encoder's and the decoder's.
_NOT_OF_THE_NETWORK = {"initializer_range", "patch_size"}
_OF_THE_CODEBOOK = {"codebook_size", "codebook_l2_norm", "commitment_cost"}


def is_original_config(config: Any) -> bool:
    """Whether the content of a `config.json` is the original's: the tokenizer is under `model.vq_model`."""
    model = config.get("model") if isinstance(config, Mapping) else None
    return isinstance(model, Mapping) and isinstance(model.get("vq_model"), Mapping)


def resolve_references(value: Any, config: Mapping[str, Any] | None = None) -> Any:
    """
    A copy of `value` with its references `${...}` resolved in `config`, by default in `value` itself.

    Raises:
        ValueError: a reference to nothing or to itself, or references to too many values.
    """
    root = value if config is None else config
    steps = 0

    def resolve(value: Any, under_way: tuple[str, ...] = ()) -> Any:
        nonlocal steps
        steps += 1
        # A small file of nested references can grow to gigabytes.
        if steps > _MOST_VALUES or len(under_way) > _LONGEST_CHAIN:
            raise ValueError(_TOO_LARGE)
        if isinstance(value, Mapping):
            return {key: resolve(item, under_way) for key, item in value.items()}
        if isinstance(value, list):
            return [resolve(item, under_way) for item in value]
        if not isinstance(value, str):
            return value
        whole = _REFERENCE.fullmatch(value)
        if whole:
            return look_up(whole[1], under_way)
        return _REFERENCE.sub(lambda reference: text(look_up(reference[1], under_way)), value)

    def text(value: Any) -> str:
        if len(str(value)) > _MOST_VALUES:
            raise ValueError(_TOO_LARGE)
        return str(value)

    def look_up(path: str, under_way: tuple[str, ...]) -> Any:
        if path in under_way:
            raise ValueError(f"The original configuration refers to itself: {' -> '.join((*under_way, path))}.")
        value: Any = root
        for key in path.split("."):
            if not isinstance(value, Mapping) or key not in value:
                raise ValueError(f"The original configuration refers to {path!r}, which it does not have.")
            value = value[key]
        return resolve(value, (*under_way, path))

    return resolve(value)


class _Section(Mapping[str, Any]):
    """A section of a configuration; references are resolved when they are read, because unused ones may be invalid."""

    def __init__(self, config: Mapping[str, Any], *path: str) -> None:
        section: Any = config
        for key in path:
            section = section.get(key) if isinstance(section, Mapping) else None
        if not isinstance(section, Mapping):
            raise ValueError(
                f"This is not a configuration of the original TiTok: it has no {'.'.join(path)}. "
                f"Its keys: {_names(config)}."
            )
        self._config, self._section, self._name = config, section, ".".join(path)

    def __getitem__(self, key: str) -> Any:
        return resolve_references(self._section[key], self._config)

    def __iter__(self) -> Iterator[str]:
        return iter(self._section)

    def __len__(self) -> int:
        return len(self._section)

    def require(self, *keys: str) -> None:
        """ValueError if one of these keys is missing."""
        missing = [key for key in keys if key not in self._section]
        if missing:
            raise ValueError(
                f"{self._name} of the original configuration lacks {', '.join(missing)}. Is it of another project? "
                f"It has {_names(self._section)}."
            )

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise ValueError(f"{key} is {value!r} in the original configuration. It has to be true or false.")
        return value

    def choice(self, key: str, choices: Mapping[str, Any], default: Any = None) -> Any:
        """The value in `choices` of the name in the configuration."""
        if key not in self._section and default is not None:
            return default
        value = self[key]
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{key} is {value!r} in the original configuration. Known: {', '.join(choices)}.")
        return choices[value]


def tokenizer_config(original: Mapping[str, Any]) -> TiTokConfig:
    """
    Our configuration of an original tokenizer.

    Args:
        original: the content of its `config.json` or YAML file.

    Raises:
        ValueError: not a configuration of a TiTok tokenizer, or an invalid one.
    """
    section = _Section(original, "model", "vq_model")
    section.require("token_size", "vit_enc_model_size", "vit_dec_model_size", "num_latent_tokens")
    quantizer = section.choice("quantize_mode", _QUANTIZERS, default="vq")
    if quantizer == "vq":
        section.require("codebook_size")
    legacy = section.flag("is_legacy", True)
    two_stage = section.flag("finetune_decoder", True)
    if two_stage and not legacy:
        raise ValueError(
            "The original configuration has finetune_decoder with is_legacy off, but only legacy models have a pixel "
            "decoder to fine-tune. Set finetune_decoder to false."
        )
    if two_stage and quantizer == "kl":
        raise ValueError(
            "The original configuration has finetune_decoder with quantize_mode vae, which the original refuses too. "
            "Set finetune_decoder to false."
        )
    fields = {
        "image_size": _image_size(original),
        "encoder_patch_size": section.get("vit_enc_patch_size", 16),
        "decoder_patch_size": section.get("vit_dec_patch_size", 16),
        "num_latent_tokens": section["num_latent_tokens"],
        "quantizer": quantizer,
        "codebook_dim": section["token_size"],
        "decoder_head": "proxy_codes" if legacy else "pixels",
        "pixel_decoder": {} if two_stage else None,
        "legacy_latent_layout": legacy,
        # One-D-Piece: its decoder takes fewer tokens if this is off.
        "tail_drop": not section.flag("strict_length_assertion", True),
    }
    fields["patch_size"] = fields["encoder_patch_size"]
    if quantizer == "vq":
        fields |= {
            "codebook_size": section["codebook_size"],
            "codebook_l2_norm": section.get("use_l2_norm", False),
            "commitment_cost": section.get("commitment_cost", 0.25),
        }
    for side, key in (("encoder", "vit_enc_model_size"), ("decoder", "vit_dec_model_size")):
        sizes = section.choice(key, VIT_SIZES)
        fields |= {f"{side}_{name}": size for name, size in zip(VIT_FIELDS, sizes, strict=True)}
    try:
        return TiTokConfig(**fields)
    except StrictDataclassError as error:
        raise ValueError(f"The original configuration describes no network that can be built: {error}") from error


def original_tokenizer_config(config: TiTokConfig) -> dict[str, Any]:
    """The inverse of [`tokenizer_config`]; ValueError for a model that the original's format cannot describe."""
    section: dict[str, Any] = {"quantize_mode": "vae" if config.quantizer == "kl" else "vq"}
    if config.quantizer == "vq":
        section |= {
            "codebook_size": config.codebook_size,
            "use_l2_norm": config.codebook_l2_norm,
            "commitment_cost": config.commitment_cost,
        }
    section |= {
        "token_size": config.codebook_dim,
        "vit_enc_model_size": _vit_size(config, "encoder"),
        "vit_dec_model_size": _vit_size(config, "decoder"),
        "vit_enc_patch_size": config.encoder_patch_size,
        "vit_dec_patch_size": config.decoder_patch_size,
        "num_latent_tokens": config.num_latent_tokens,
        "finetune_decoder": config.pixel_decoder is not None,
        "is_legacy": config.decoder_head == "proxy_codes",
    }
    model: dict[str, Any] = {"vq_model": section}
    if config.tail_drop:
        if config.decoder_head == "pixels":
            raise ValueError(
                "The original format has tail drop for two-stage models only (One-D-Piece), and this one predicts "
                "pixels. It cannot be exported."
            )
        section["strict_length_assertion"] = False
        model["type"] = "one_d_piece"
    original = {"model": model, "dataset": {"preprocessing": {"crop_size": config.image_size}}}
    unused = _OF_THE_CODEBOOK if config.quantizer == "kl" else set()
    ours, theirs = network_fields(config), network_fields(tokenizer_config(original))
    lost = [f"{name} {value!r}" for name, value in ours.items() if name not in unused and value != theirs[name]]
    if lost:
        raise ValueError(
            f"The original format cannot say {', '.join(lost)}. Only models of the published design can be exported."
        )
    return original


def network_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of a configuration of ours that describe its network."""
    fields: dict[str, Any] = {}
    for name in type(config).__annotations__.keys() - _NOT_OF_THE_NETWORK:
        value = getattr(config, name)
        if isinstance(value, PreTrainedConfig):
            value = network_fields(value)
        fields[name] = list(value) if isinstance(value, tuple) else value
    return fields


def generator_config(original: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `MaskGitTransformer1DModel` for an original generator; ValueError if it is none."""
    section, tokenizer = _Section(original, "model", "generator"), _Section(original, "model", "vq_model")
    tokenizer.require("codebook_size")
    section.require("condition_num_classes")
    num_latent_tokens = section.get("image_seq_len", tokenizer.get("num_latent_tokens"))
    if num_latent_tokens is None:
        raise ValueError(
            "The original configuration lacks model.generator.image_seq_len, the number of latent tokens."
        )
    architecture = section.choice("model_type", _ARCHITECTURES, default="vit")
    return {
        "architecture": architecture,
        "codebook_size": tokenizer["codebook_size"],
        "num_latent_tokens": num_latent_tokens,
        "num_classes": section["condition_num_classes"],
        "hidden_size": section.get("hidden_size", 768),
        "num_hidden_layers": section.get("num_hidden_layers", 24),
        "num_attention_heads": section.get("num_attention_heads", 16),
        "intermediate_size": section.get("intermediate_size", 3072),
        # The original's U-ViT ignores the dropout in its configuration.
        "dropout": section.get("dropout", 0.1) if architecture == "vit" else 0.0,
    }


def scheduler_config(original: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `MaskGitScheduler` for the published benchmark; ValueError if there are no sampler settings."""
    section, tokenizer = _Section(original, "model", "generator"), _Section(original, "model", "vq_model")
    section.require("num_steps", "randomize_temperature", "guidance_scale", "guidance_decay")
    tokenizer.require("codebook_size")
    settings = {
        "mask_token_id": tokenizer["codebook_size"],
        "num_inference_steps": section["num_steps"],
        "temperature": section["randomize_temperature"],
        "guidance_scale": section["guidance_scale"],
        "guidance_schedule": section["guidance_decay"],
        # The benchmark uses it, but the original's files do not say so.
        "softmax_temperature_annealing": True,
    }
    return from_original(settings)


def original_generator_config(config: Mapping[str, Any], scheduler: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The inverse of [`generator_config`], and with a scheduler's configuration of [`scheduler_config`]."""
    original_name = {ours: original for original, ours in _ARCHITECTURES.items()}
    section: dict[str, Any] = {"model_type": original_name[config["architecture"]]}
    section |= {
        name: config[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    }
    section |= {
        "dropout": config["dropout"],
        "attn_drop": config["dropout"],
        "class_label_dropout": 0.1,
        "image_seq_len": config["num_latent_tokens"],
        "condition_num_classes": config["num_classes"],
    }
    if scheduler is not None:
        sampler, guidance = scheduler.get("sampler", "confidence"), scheduler.get("guidance", "classifier-free")
        if (sampler, guidance) != ("confidence", "classifier-free"):
            raise ValueError(
                f"The sampler is {sampler!r} with {guidance!r} guidance, and the original "
                "knows only 'confidence' with 'classifier-free'. Change the scheduler's configuration first."
            )
        section |= {
            "num_steps": scheduler["num_inference_steps"],
            "randomize_temperature": scheduler["temperature"],
            "guidance_scale": original_scale(scheduler),
            "guidance_decay": scheduler["guidance_schedule"],
        }
    tokenizer = {name: config[name] for name in ("codebook_size", "num_latent_tokens")}
    return {"model": {"vq_model": tokenizer, "generator": section}}


def _image_size(original: Mapping[str, Any]) -> Any:
    dataset = original.get("dataset")
    if not isinstance(dataset, Mapping) or "preprocessing" not in dataset:
        return 256
    return _Section(original, "dataset", "preprocessing").get("crop_size", 256)


def _names(section: Mapping[str, Any], shown: int = 20) -> str:
    return ", ".join([*map(str, list(section)[:shown]), *(["..."] if len(section) > shown else [])])


def _vit_size(config: TiTokConfig, side: str) -> str:
    sizes = tuple(getattr(config, f"{side}_{name}") for name in VIT_FIELDS)
    for name, known in VIT_SIZES.items():
        if sizes == known:
            return name
    raise ValueError(
        f"The {side} has width, layers and heads {sizes}, and the original knows only "
        f"{', '.join(f'{name} {known}' for name, known in VIT_SIZES.items())}. It cannot be exported."
    )
