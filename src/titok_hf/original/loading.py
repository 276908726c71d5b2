"""Reads original checkpoints into our models. `from_pretrained` of the models calls [`read`] first."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from titok_hf.checkpoints.layout import HUB_ARGUMENTS, check_depth, check_finite_weights
from titok_hf.configuration_maskgit_vqgan import MaskGitVQGANConfig
from titok_hf.configuration_titok import TiTokConfig

from .configs import generator_config, scheduler_config, tokenizer_config
from .key_maps import (
    GENERATOR_IGNORED,
    generator_keys,
    maskgit_vqgan_flax_keys,
    maskgit_vqgan_keys,
    titok_keys,
)
from .reading import OriginalCheckpoint, find_original
from .released import RELEASED_GENERATORS, RELEASED_TOKENIZERS, RELEASED_VQGANS, STAGE_1_SUFFIX
from .state_dict_adapter import StateDictAdapter


def read(cls: type, source: Any, original_variant: str | None = None, **kwargs: Any) -> Any | None:
    """
    An instance of one of our classes from an original checkpoint, or None if `source` is none; arguments as for
    `from_pretrained`. See `titok_hf.checkpoints.mixin.add_reader`.

    Raises:
        OSError: a file that is missing, damaged or refused.
        ValueError: an unknown variant, a configuration of another project, or weights that do not fit.
    """
    hub_arguments = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
    checkpoint = locate(cls, source, original_variant, **hub_arguments)
    return None if checkpoint is None else load(cls, checkpoint, **kwargs)


def locate(
    cls: type, source: Any, original_variant: str | None = None, **hub_arguments: Any
) -> OriginalCheckpoint | None:
    """The files of an original checkpoint for one of our classes; arguments and errors as [`read`]."""
    kind = _kind(cls)
    if original_variant is not None and original_variant not in kind.variants:
        raise ValueError(
            f"original_variant is {original_variant!r}. Released for {cls.__name__}: {', '.join(kind.variants)}."
        )
    checkpoint = find_original(
        source,
        original_variant,
        released_file=kind.released[original_variant].file if original_variant in kind.released else None,
        needs_weights=kind.has_weights,
        **{name: value for name, value in hub_arguments.items() if value is not None},
    )
    if checkpoint is not None and checkpoint.config is None and original_variant is None and len(kind.variants) > 1:
        raise ValueError(
            f"{source} is a bare file, which does not tell its architecture. Name it with original_variant=, one of "
            f"{', '.join(kind.variants)}."
        )
    return checkpoint


def load(cls: type, checkpoint: OriginalCheckpoint, **kwargs: Any) -> Any:
    """An instance of one of our classes from the files that [`locate`] found; errors as [`read`]."""
    return _kind(cls).load(cls, checkpoint, kwargs)


def titok_adapter(config: TiTokConfig, ours: Mapping[str, torch.Tensor]) -> StateDictAdapter:
    """The adapter of a tokenizer, given its configuration and its state dict (the meta device is enough)."""
    return StateDictAdapter(titok_keys(config), ours)


def generator_adapter(config: Mapping[str, Any], ours: Mapping[str, torch.Tensor]) -> StateDictAdapter:
    """The adapter of a generator."""
    return StateDictAdapter(
        generator_keys(config["architecture"], config["num_hidden_layers"]), ours, GENERATOR_IGNORED
    )


def maskgit_vqgan_adapter(
    config: MaskGitVQGANConfig, ours: Mapping[str, torch.Tensor], flax: bool = False
) -> StateDictAdapter:
    """The adapter of a MaskGIT-VQGAN, in PyTorch or in Flax form."""
    return StateDictAdapter((maskgit_vqgan_flax_keys if flax else maskgit_vqgan_keys)(config), ours)


def _load_tokenizer(cls: Any, checkpoint: OriginalCheckpoint, kwargs: dict[str, Any]) -> Any:
    if checkpoint.config is not None:
        with checkpoint.naming_config():
            config = tokenizer_config(checkpoint.config)
    else:
        variant = str(checkpoint.variant)
        stage_1 = {"pixel_decoder": None} if variant.endswith(STAGE_1_SUFFIX) else {}
        config = TiTokConfig.from_variant(variant.removesuffix(STAGE_1_SUFFIX), **stage_1)
    return _from_state_dict(cls, config, titok_adapter, checkpoint, kwargs)


def _load_vqgan(cls: Any, checkpoint: OriginalCheckpoint, kwargs: dict[str, Any]) -> Any:
    adapter = partial(maskgit_vqgan_adapter, flax=checkpoint.is_flax)
    return _from_state_dict(cls, MaskGitVQGANConfig(), adapter, checkpoint, kwargs)


def _from_state_dict(
    cls: Any,
    config: Any,
    make_adapter: Callable[..., StateDictAdapter],
    checkpoint: OriginalCheckpoint,
    kwargs: dict[str, Any],
) -> Any:
    """Translate the state dict and pass it to transformers."""
    with checkpoint.naming_config(), torch.device("meta"):
        adapter = make_adapter(config, cls(config).state_dict())
    tensors = adapter.to_ours(checkpoint.state_dict(), checkpoint.weights)
    return cls.from_pretrained(None, config=config, state_dict=tensors, **kwargs)


def _load_generator(cls: Any, checkpoint: OriginalCheckpoint, kwargs: dict[str, Any]) -> Any:
    """diffusers loads from files only, so this function makes the model."""
    dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
    if kwargs:
        raise TypeError(
            f"from_pretrained does not take {', '.join(kwargs)} for an original checkpoint. Load it, save it with "
            "save_pretrained, and load that."
        )
    original = checkpoint.state_dict()
    with checkpoint.naming_config(), torch.device("meta"):
        if checkpoint.config is not None:
            settings = generator_config(checkpoint.config)
            check_depth(cast(Path, checkpoint.config_path), settings, len(original))
            model = cls(**settings)
        else:
            model = cls.from_variant(checkpoint.variant)
        adapter = generator_adapter(model.config, model.state_dict())
    model.load_state_dict(adapter.to_ours(original, checkpoint.weights), assign=True)
    model = model.to(dtype).eval()
    check_finite_weights(checkpoint.weights, model.state_dict())
    return model


def _load_scheduler(cls: Any, checkpoint: OriginalCheckpoint, kwargs: dict[str, Any]) -> Any:
    if checkpoint.config is None:
        return cls.from_variant(checkpoint.variant, **kwargs)
    with checkpoint.naming_config():
        settings = scheduler_config(checkpoint.config)
        cls(**settings)
    return cls(**settings | kwargs)


@dataclass(frozen=True)
class _Kind:
    """How to load one of our classes, and its released checkpoints."""

    load: Callable[..., Any]
    released: dict[str, Any]
    has_weights: bool = True

    @property
    def variants(self) -> list[str]:
        """Values of `original_variant`."""
        two_stage = (name for name in ("l32", "b64", "s128") if self.released is RELEASED_TOKENIZERS)
        return [*self.released, *(name + STAGE_1_SUFFIX for name in two_stage)]


_KINDS = {
    "TiTokModel": _Kind(_load_tokenizer, RELEASED_TOKENIZERS),
    "MaskGitVQGANModel": _Kind(_load_vqgan, RELEASED_VQGANS),
    "MaskGitTransformer1DModel": _Kind(_load_generator, RELEASED_GENERATORS),
    "MaskGitScheduler": _Kind(_load_scheduler, RELEASED_GENERATORS, has_weights=False),
}


def _kind(cls: type) -> _Kind:
    return next(_KINDS[base.__name__] for base in cls.__mro__ if base.__name__ in _KINDS)
