"""How a TiTokPipeline gets to disk and back: whole or not at all, safetensors only, and never from a newer version."""

import os
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline

# diffusers finds the loader of a part by the name of its base class in the module that it takes the part's class from.
from diffusers import ModelMixin as ModelMixin
from diffusers import SchedulerMixin as SchedulerMixin
from transformers import ImageProcessingMixin as ImageProcessingMixin
from transformers import PreTrainedModel as PreTrainedModel
from transformers.utils import is_torchvision_available

from ..image_processing_pil_titok import TiTokImageProcessorPil
from ..image_processing_titok import TiTokImageProcessor
from ..imagenet_classes import IMAGENET_CLASSES, imagenet_id2label
from ..modeling_maskgit import MaskGitTransformer1DModel
from ..modeling_titok import TiTokModel
from ..scheduling_maskgit import MaskGitScheduler
from .cards import write_model_card
from .folders import forget_origins
from .layout import checkpoint_atomically, checkpoint_folder, naming
from .mixin import PushMixin
from .remote_code import LoadedByDiffusers

if TYPE_CHECKING:
    from typing_extensions import Self

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


class TiTokPipelineFiles(PushMixin, LoadedByDiffusers, DiffusionPipeline):
    """Loading, downloading and saving of [`TiTokPipeline`]."""

    parts_module = __name__

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> "Self":
        """
        Load a pipeline from a folder or from the Hub. Weights are read from safetensors only, never from pickles.

        Args:
            pretrained_model_name_or_path: a folder that `save_pretrained` wrote, or the id of a Hub repository.
            kwargs: as for any diffusers pipeline: `dtype` (float32 for all parts by default, whatever they were saved
                in), `variant`, `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`, `device_map`,
                or parts to use instead of the saved ones; and `subfolder`, where in the folder or repository the
                pipeline lies.

        Raises:
            OSError: no checkpoint there, a damaged one, or one that a newer titok_hf saved.
            ValueError: `use_safetensors=False`.
            NotImplementedError: a `device_map` that diffusers does not know or this machine has no device for.
        """
        if kwargs.pop("use_safetensors", None) is False:
            raise ValueError(
                "use_safetensors is False, but pickles run code when opened and are not read. Leave it out."
            )
        if not {"dtype", "torch_dtype", "quantization_config"} & {name for name in kwargs if kwargs[name] is not None}:
            # Left alone, transformers keeps the saved dtype of the tokenizer, and diffusers reads the rest as float32.
            kwargs["dtype"] = torch.float32
        hub_arguments = {name: kwargs[name] for name in _HUB_ARGUMENTS if kwargs.get(name) is not None}
        place = {"variant": kwargs.get("variant"), "subfolder": kwargs.pop("subfolder", None)}
        folder = checkpoint_folder(pretrained_model_name_or_path, **place, **hub_arguments)
        with naming(folder, "cannot be loaded", list(kwargs)):
            if "image_processor" not in kwargs:
                # The twin that works here, whichever of the two the checkpoint was saved with.
                processor = TiTokImageProcessor if is_torchvision_available() else TiTokImageProcessorPil
                kwargs["image_processor"] = processor.from_pretrained(folder, subfolder="image_processor")
            pipe = super().from_pretrained(folder, use_safetensors=True, **kwargs)
        pipe.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipe

    @classmethod
    def from_original(
        cls,
        tokenizer: str | os.PathLike,
        generator: str | os.PathLike | None = None,
        original_variant: str | None = None,
        **kwargs: Any,
    ) -> "Self":
        """
        A pipeline of checkpoints of the original implementation, with the sampler settings of its published benchmark.

        Args:
            tokenizer, generator: each a folder, a Hub id or a bare weights file of the original. Without a generator
                the pipeline is a tokenizer alone.
            original_variant: the released checkpoints that they are, such as `"l32"`; needed for bare files.
            kwargs: `dtype`, and arguments of the download: `cache_dir`, `force_download`, `local_files_only`, `token`,
                `revision`.

        Raises:
            OSError: nothing there, a damaged file, or a pickle that holds more than tensors.
            ValueError: checkpoints of another architecture, or that do not belong together.
        """
        hub_arguments = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
        model = TiTokModel.from_pretrained(tokenizer, original_variant=original_variant, **kwargs)
        processor = TiTokImageProcessor if is_torchvision_available() else TiTokImageProcessorPil
        parts: dict[str, Any] = {"tokenizer": model, "image_processor": processor(size=model.config.image_size)}
        if generator is not None:
            named = {"original_variant": original_variant}
            parts["transformer"] = MaskGitTransformer1DModel.from_pretrained(generator, **named, **kwargs)
            parts["scheduler"] = MaskGitScheduler.from_pretrained(generator, **named, **hub_arguments)
            if parts["transformer"].config.num_classes == IMAGENET_CLASSES:
                parts["id2label"] = imagenet_id2label()
        return cls(**parts)

    @classmethod
    def download(cls, pretrained_model_name: str | os.PathLike, **kwargs: Any) -> str:
        """
        Download a pipeline from the Hub into the cache: configurations and safetensors, nothing executable.

        Returns:
            the local folder.

        Raises:
            OSError: no such repository, no access, or no network.
        """
        hub_arguments = {name: kwargs[name] for name in _HUB_ARGUMENTS if kwargs.get(name) is not None}
        place = {"variant": kwargs.get("variant"), "subfolder": kwargs.get("subfolder")}
        return str(checkpoint_folder(pretrained_model_name, **place, **hub_arguments))

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Save all parts, the index and a model card. The folder changes only when everything has been written.

        Args:
            save_directory: the folder; other files in it stay, and so does a card that a person edited.
            safe_serialization: there for the signature of diffusers; pickles are refused.
            variant: name of the weights' variant, such as "fp16".
            max_shard_size: largest size of a weights file ("5GB").
            push_to_hub: whether to upload as well; `kwargs` go to `push_to_hub` then.

        Raises:
            ValueError: `safe_serialization=False`.
            OSError: the folder cannot be written.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization is False, but pickles are not written. Leave it out.")
        with checkpoint_atomically(save_directory) as folder:
            super().save_pretrained(folder, variant=variant, max_shard_size=max_shard_size)
            forget_origins(folder)
            # `transformers.pipeline` looks for it beside the model's configuration.
            self.image_processor.save_pretrained(folder / "tokenizer")
            write_model_card(folder, destination=save_directory)
        if push_to_hub:
            self._push_after_saving(save_directory, {"variant": variant, "max_shard_size": max_shard_size} | kwargs)


__all__ = ["TiTokPipelineFiles"]
