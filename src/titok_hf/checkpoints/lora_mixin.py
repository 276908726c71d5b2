"""The mixin of the pipeline for LoRA adapters of the generator, which may bring classes of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LoraBaseMixin, _fetch_state_dict
from diffusers.utils import is_peft_available

from titok_hf.extras import how_to_install

from .atomic_files import folder_atomically
from .locations import may_be_hub_id

NEW_CLASSES = "new_classes"
"""In a file of an adapter, before the names of what diffusers does not know: the classes that the adapter adds."""

_EMBEDDINGS = f"{NEW_CLASSES}.embeddings"
_NAMES = f"{NEW_CLASSES}.names"
_PREFIX = "transformer."
_DOWNLOAD_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class LoraMixin(LoraBaseMixin):
    """
    Comes before `DiffusionPipeline`. LoRA (arXiv 2106.09685) of `transformer` with diffusers' methods: `fuse_lora`,
    `set_adapters`, `enable_lora`, `get_list_adapters` and others.

    A file of an adapter has the layout of diffusers. If the adapter was trained on new classes, the file also has
    their names and their rows of the embedding table. They are appended to the classes of the pipeline when the
    adapter is loaded, and removed with it.
    """

    _lora_loadable_modules = ["transformer"]
    transformer_name = "transformer"

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | os.PathLike | dict[str, torch.Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Load an adapter of the generator.

        Args:
            pretrained_model_name_or_path_or_dict: a folder or Hub repository that `save_lora_weights` or
                `titok-hf train` wrote, a safetensors file, or a state dict.
            adapter_name: for `set_adapters` and `delete_adapters`; by default "default_0" and so on.
            hotswap: whether to replace the weights of the loaded adapter of that name.
            kwargs: `weight_name`, the name of the file; arguments of the download: `cache_dir`, `force_download`,
                `local_files_only`, `token`, `revision`, `subfolder`.

        Raises:
            ValueError: no adapter, one of another model, or a class name that the pipeline has already.
            OSError: no such file.
            ImportError: peft is not installed.
        """
        check_peft()
        transformer = self.transformer  # type: ignore[attr-defined]
        if transformer is None:
            raise ValueError("This pipeline has a tokenizer only. An adapter needs a transformer.")
        state_dict, metadata = self.lora_state_dict(pretrained_model_name_or_path_or_dict, **kwargs)
        embeddings = state_dict.pop(_EMBEDDINGS, None)
        names = list((metadata or {}).get(_NAMES, []))
        _check_fits(state_dict, embeddings, names, transformer)
        if not hotswap:
            self._check_new_names(names)
        adapter_name = adapter_name or self._next_adapter_name()
        offloaded = self._optionally_disable_offloading(self)
        transformer.load_lora_adapter(
            state_dict, prefix="transformer", adapter_name=adapter_name, metadata=metadata, hotswap=hotswap
        )
        if embeddings is not None:
            self.add_classes(names, embeddings, adapter_name)
        self._offload_again(*offloaded)

    @classmethod
    def lora_state_dict(
        cls, pretrained_model_name_or_path_or_dict: str | os.PathLike | Mapping[str, torch.Tensor], **kwargs: Any
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
        """The tensors and the metadata of an adapter's file; arguments and errors as for `load_lora_weights`."""
        source = pretrained_model_name_or_path_or_dict
        if isinstance(source, Mapping):
            return dict(source), kwargs.get("metadata")
        given = {name: kwargs.get(name) for name in _DOWNLOAD_ARGUMENTS}
        weight_name = kwargs.get("weight_name")
        if not Path(source).exists() and not may_be_hub_id(source, needs_user=False):
            raise OSError(f"{source} is no file or folder here, and no id of a Hub repository.")
        if weight_name is None and Path(source).is_dir() and not any(Path(source).glob("*.safetensors")):
            raise OSError(f"{source} has no safetensors file, so there is no adapter. Name the folder that has one.")
        state_dict, metadata = _fetch_state_dict(
            pretrained_model_name_or_path_or_dict=str(source),
            weight_name=weight_name,
            use_safetensors=True,
            proxies=None,
            user_agent={"file_type": "attn_procs_weights", "framework": "pytorch"},
            allow_pickle=False,
            **given,
        )
        return state_dict, metadata

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: str | os.PathLike,
        transformer_lora_layers: Mapping[str, torch.Tensor],
        transformer_lora_adapter_metadata: Mapping[str, Any] | None = None,
        class_embeddings: torch.Tensor | None = None,
        class_names: Sequence[str] = (),
        weight_name: str | None = None,
    ) -> None:
        """
        Save an adapter as `pytorch_lora_weights.safetensors`, which `load_lora_weights` reads.

        Args:
            save_directory: the folder; made if missing.
            transformer_lora_layers: what `peft.get_peft_model_state_dict(pipe.transformer, adapter_name=...)` returns.
            transformer_lora_adapter_metadata: the values of its `LoraConfig`, such as `lora_alpha`.
            class_embeddings: rows of the classes that the adapter adds, float, shape (new classes, hidden_size).
            class_names: their names.
            weight_name: another name of the file.

        Raises:
            ValueError: no layers, or another number of names than of rows.
            OSError: the folder cannot be written.
        """
        if not transformer_lora_layers:
            raise ValueError(
                "transformer_lora_layers is empty. Pass peft.get_peft_model_state_dict(pipe.transformer)."
            )
        layers: dict[str, Any] = {"transformer": dict(transformer_lora_layers)}
        metadata: dict[str, Any] = {"transformer": dict(transformer_lora_adapter_metadata or {})}
        if class_embeddings is not None:
            if len(class_embeddings) != len(class_names):
                raise ValueError(
                    f"class_names has {len(class_names)} names for {len(class_embeddings)} class_embeddings. Give one "
                    "name for each row."
                )
            layers[NEW_CLASSES] = {"embeddings": class_embeddings.detach().contiguous()}
            metadata[NEW_CLASSES] = {"names": list(class_names)}
        with folder_atomically(save_directory) as folder:
            cls._save_lora_weights(folder, layers, metadata, weight_name=weight_name)

    def unload_lora_weights(self) -> None:
        """Remove all adapters, and their classes unless they were fused."""
        super().unload_lora_weights()
        if self.num_fused_loras == 0:
            self._remove_classes(list(self._classes_of_adapters))
        self._classes_of_adapters = {}

    def delete_adapters(self, adapter_names: str | list[str]) -> None:
        """Remove these adapters and their classes. Numbers of classes that were added later become smaller."""
        super().delete_adapters(adapter_names)
        self._remove_classes([adapter_names] if isinstance(adapter_names, str) else adapter_names)

    def fuse_lora(self, components: Sequence[str] = ("transformer",), **kwargs: Any) -> None:
        """Add the adapters to the weights, as in diffusers. Then `unload_lora_weights` and `save_pretrained`."""
        super().fuse_lora(components=list(components), **kwargs)

    def unfuse_lora(self, components: Sequence[str] = ("transformer",), **kwargs: Any) -> None:
        """The opposite of `fuse_lora`, as in diffusers."""
        super().unfuse_lora(components=list(components), **kwargs)

    def add_classes(self, names: Sequence[str], embeddings: torch.Tensor, adapter_name: str | None = None) -> None:
        """
        Append classes to those of the pipeline, in place.

        Args:
            names: of the new classes.
            embeddings: their rows of the embedding table, float, shape (len(names), hidden_size).
            adapter_name: the adapter with which they are removed again.
        """
        transformer = self.transformer  # type: ignore[attr-defined]
        first, old = transformer.config.num_classes, transformer.class_embeddings
        transformer.set_class_embeddings(torch.cat([old, embeddings.to(old)]))
        self._name_classes(self.id2label | dict(enumerate(names, start=first)))
        if adapter_name is not None:
            self._classes_of_adapters = self._classes_of_adapters | {
                adapter_name: list(range(first, first + len(names)))
            }

    id2label: dict[int, str]
    _classes_of_adapters: dict[str, list[int]] = {}

    def _remove_classes(self, adapter_names: Sequence[str]) -> None:
        removed = {label for name in adapter_names for label in self._classes_of_adapters.get(name, ())}
        if not removed:
            return
        transformer = self.transformer  # type: ignore[attr-defined]
        kept = [label for label in range(transformer.config.num_classes) if label not in removed]
        number = {label: index for index, label in enumerate(kept)}
        transformer.set_class_embeddings(transformer.class_embeddings[kept])
        self._name_classes({number[label]: name for label, name in self.id2label.items() if label in number})
        self._classes_of_adapters = {
            name: [number[label] for label in labels]
            for name, labels in self._classes_of_adapters.items()
            if name not in adapter_names
        }

    def _name_classes(self, id2label: dict[int, str]) -> None:
        self.id2label = id2label
        self.register_to_config(id2label=id2label or None)  # type: ignore[attr-defined]

    def _check_new_names(self, names: Sequence[str]) -> None:
        known = [name for name in names if name in self.classes]  # type: ignore[attr-defined]
        if known:
            raise ValueError(
                f"The adapter adds the class {known[0]!r}, which the pipeline has already. Unload the adapter that "
                "brought it with delete_adapters or unload_lora_weights."
            )

    def _next_adapter_name(self) -> str:
        used = getattr(self.transformer, "peft_config", {})  # type: ignore[attr-defined]
        return next(name for name in (f"default_{number}" for number in range(len(used) + 1)) if name not in used)

    def _offload_again(self, by_model: bool, sequentially: bool, by_group: bool) -> None:
        device = getattr(self, "_offload_device", None)
        if by_model:
            self.enable_model_cpu_offload(device=device)  # type: ignore[attr-defined]
        elif sequentially:
            self.enable_sequential_cpu_offload(device=device)  # type: ignore[attr-defined]
        elif by_group:
            from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading

            _maybe_remove_and_reapply_group_offloading(self.transformer)  # type: ignore[attr-defined]


def check_peft() -> None:
    """ImportError, with the extra to install, unless peft is installed."""
    if not is_peft_available():
        message = how_to_install("peft")
        raise ImportError(message[0].upper() + message[1:])


def _check_fits(
    state_dict: Mapping[str, torch.Tensor], embeddings: torch.Tensor | None, names: Sequence[str], transformer: Any
) -> None:
    """ValueError unless every tensor is a LoRA matrix of a layer of this transformer."""
    layers = {name: module for name, module in transformer.named_modules() if hasattr(module, "weight")}
    for key, tensor in state_dict.items():
        name, _, kind = key.removeprefix(_PREFIX).partition(".lora_")
        if not key.startswith(_PREFIX) or kind not in ("A.weight", "B.weight", "B.bias"):
            raise ValueError(
                f"The file has {key!r}, which is no LoRA matrix of a transformer. Load the file that "
                "save_lora_weights or `titok-hf train` wrote."
            )
        layer = layers.get(name)
        if layer is None:
            raise ValueError(f"The adapter is of another model: it changes {name}, which this transformer lacks.")
        own = layer.weight.shape[1 if kind == "A.weight" else 0]
        given = tensor.shape[1 if kind == "A.weight" else 0]
        if own != given:
            raise ValueError(
                f"The adapter is of another model: its {name} has size {given}, this transformer's {own}."
            )
    if not state_dict:
        raise ValueError("The file has no LoRA matrices.")
    width = transformer.token_embedding.weight.shape[1]
    if (embeddings is None) != (not names) or (
        embeddings is not None and tuple(embeddings.shape) != (len(names), width)
    ):
        shape = None if embeddings is None else tuple(embeddings.shape)
        raise ValueError(
            f"The adapter has embeddings of shape {shape} for the new classes {list(names)}, but this transformer "
            f"takes ({len(names)}, {width})."
        )
