"""Whole checkpoints to our format and back, as folders. Each run proves to itself that nothing changed."""

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import save_file

from titok_hf.checkpoints.layout import INDEX_NAME, checkpoint_atomically, read_index, read_json
from titok_hf.checkpoints.push import push_folder
from titok_hf.configuration_maskgit_vqgan import MaskGitVQGANConfig
from titok_hf.configuration_titok import TiTokConfig
from titok_hf.image_processing_pil_titok import TiTokImageProcessorPil
from titok_hf.imagenet_classes import IMAGENET_CLASSES, imagenet_id2label
from titok_hf.modeling_maskgit import MaskGitTransformer1DModel
from titok_hf.modeling_maskgit_vqgan import MaskGitVQGANModel
from titok_hf.modeling_titok import TiTokModel
from titok_hf.pipeline_titok import TiTokPipeline
from titok_hf.scheduling_maskgit import MaskGitScheduler

from .configs import network_fields, original_generator_config, original_tokenizer_config
from .loading import load, locate
from .model_card import write_card
from .reading import read_state_dict
from .released import RELEASED_GENERATORS, RELEASED_TOKENIZERS, RELEASED_VQGANS
from .verification import (
    Verification,
    VerificationError,
    adapter_of,
    same_bits,
    trial_run,
    verify_outputs,
    verify_tensors,
)

Source = str | os.PathLike

EXPORT_FORMS = ("safetensors", "bin", "flax")
"""How [`export_to_original`] writes weights: as on the Hub, as a pickle of tensors, or as Flax (MaskGIT-VQGAN)."""


def convert_tokenizer(
    source: Source, output: Source, variant: str | None = None, push_to_hub: str | None = None
) -> Verification:
    """
    One original tokenizer to a folder of ours: model, image processor, card.

    Args:
        source: a folder, a Hub id or a bare weights file of the original.
        output: the folder to write. It appears when everything is written and verified.
        variant: the released checkpoint that `source` is; needed for a bare file.
        push_to_hub: id of a repository to upload the folder to.

    Returns:
        what was found equal.

    Raises:
        OSError: files that are missing, damaged or refused, or a place that cannot be written.
        ValueError: weights that do not fit, or a conversion that changed something. Nothing is written then.
    """
    with checkpoint_atomically(output) as folder:
        verification = _convert_model(TiTokModel, source, variant, folder)
        image_size = json.loads((folder / "config.json").read_text())["image_size"]
        TiTokImageProcessorPil(size=image_size).save_pretrained(folder)
        name = _released_name(RELEASED_TOKENIZERS, source, variant)
        write_card(
            folder,
            destination=output,
            repo_id=push_to_hub,
            variant=name,
            source=_name_of(source),
            verifications=[verification],
            tokenizer=RELEASED_TOKENIZERS.get(name or ""),
        )
    _push(output, push_to_hub)
    return verification


def convert_all_tokenizers(
    output: Source, source: Source | None = None, push_to_hub: str | None = None
) -> dict[str, Verification]:
    """
    The nine released tokenizers, one after the other, to `output/titok-<variant>`.

    Args:
        output: the folder above them.
        source: a folder with the bare `.bin` files under their published names; by default the Hub.
        push_to_hub: a user or organisation; the repositories are `<push_to_hub>/titok-<variant>`.
    """
    verifications = {}
    for variant, released in RELEASED_TOKENIZERS.items():
        folder = f"titok-{variant.replace('_', '-')}"
        verifications[variant] = convert_tokenizer(
            released.repository if source is None else Path(source, released.file),
            Path(output, folder),
            variant=None if source is None else variant,
            push_to_hub=f"{push_to_hub}/{folder}" if push_to_hub else None,
        )
    return verifications


def convert_vqgan(source: Source, output: Source, push_to_hub: str | None = None) -> Verification:
    """The MaskGIT-VQGAN, from its PyTorch or Flax file. Arguments and errors are those of [`convert_tokenizer`]."""
    variant = None if Path(source).is_file() else next(iter(RELEASED_VQGANS))
    with checkpoint_atomically(output) as folder:
        verification = _convert_model(MaskGitVQGANModel, source, variant, folder)
        is_released = Path(source).name == RELEASED_VQGANS["imagenet256"].file or not Path(source).exists()
        write_card(
            folder,
            destination=output,
            repo_id=push_to_hub,
            source=_name_of(source),
            verifications=[verification],
            tokenizer=RELEASED_VQGANS["imagenet256"] if is_released else None,
        )
    _push(output, push_to_hub)
    return verification


def convert_generator(
    source: Source,
    output: Source,
    tokenizer: Source | None = None,
    variant: str | None = None,
    push_to_hub: str | None = None,
) -> list[Verification]:
    """
    One original generator to a folder of ours. With its tokenizer, the folder is a complete pipeline: tokenizer,
    transformer, scheduler with the benchmark's settings, image processor and the names of the ImageNet classes.

    Args:
        source: a folder, a Hub id or a bare weights file of the original generator.
        output: the folder to write. It appears when everything is written and verified.
        tokenizer: the same of its original tokenizer. Without it, transformer and scheduler alone are written.
        variant: the released checkpoint that `source` (and `tokenizer`) is; needed for bare files.
        push_to_hub: id of a repository to upload the folder to.

    Returns:
        what was found equal: of the generator, then of the tokenizer.

    Raises:
        as [`convert_tokenizer`].
    """
    name = _released_name(RELEASED_GENERATORS, source, variant)
    with checkpoint_atomically(output) as folder:
        scheduler = load(MaskGitScheduler, _located(MaskGitScheduler, source, variant))
        if tokenizer is None:
            verifications = [_convert_model(MaskGitTransformer1DModel, source, variant, folder)]
            scheduler.save_pretrained(folder)
        else:
            verifications = [
                _convert_model(MaskGitTransformer1DModel, source, variant, folder / "transformer"),
                _convert_model(TiTokModel, tokenizer, variant, folder / "tokenizer"),
            ]
            _write_pipeline(folder, scheduler)
        write_card(
            folder,
            destination=output,
            repo_id=push_to_hub,
            variant=name,
            source=" and ".join(_name_of(part) for part in (source, tokenizer) if part is not None),
            verifications=verifications,
            tokenizer=RELEASED_TOKENIZERS.get(name or "") if tokenizer is not None else None,
            generator=RELEASED_GENERATORS.get(name or ""),
        )
    _push(output, push_to_hub)
    return verifications


def export_to_original(model: Source, output: Source, form: str = "safetensors") -> list[Verification]:
    """
    A model of ours to the original's format, which the original implementation loads strictly.

    Args:
        model: a folder or Hub id of a tokenizer, a generator, a MaskGIT-VQGAN, or a pipeline, of which tokenizer and
            generator are written to folders of these names.
        output: the folder to write. It appears when everything is written and verified.
        form: one of `EXPORT_FORMS`.

    Returns:
        what was found equal, for each model.

    Raises:
        OSError: files that are missing or damaged, or a place that cannot be written.
        ValueError: a model that the original cannot describe, or a form that does not exist for it.
    """
    if form not in EXPORT_FORMS:
        raise ValueError(f"form is {form!r}. Use one of {', '.join(EXPORT_FORMS)}.")
    if form == "flax":
        importlib.import_module("msgpack")  # the extra `convert` brings it; better missed now than after the work
    source = _local_folder(model)
    with checkpoint_atomically(output) as folder:
        if not (source / INDEX_NAME).exists():
            return [_export_model(source, folder, form, _original_config(source))]
        # The index tells, not the folders: one of an earlier pipeline may still lie there.
        parts = {"tokenizer": "tokenizer"}
        configs = [_original_config(source / "tokenizer")]
        if read_index(source).get("transformer", [None])[0] is not None:
            parts["transformer"] = "generator"
            configs.append(_original_config(source / "transformer", source / "scheduler"))
        verifications = []
        # As the original does, both folders tell everything about both models.
        config = {"model": {}, **configs[0]}
        for other in reversed(configs):
            config["model"] = config["model"] | other["model"]
        for part, name in parts.items():
            verifications.append(_export_model(source / part, folder / name, form, config))
    return verifications


def _convert_model(cls: Any, source: Source, variant: str | None, folder: Path) -> Verification:
    """Read an original, write ours, and read both again; the weights are in memory twice at most."""
    checkpoint = _located(cls, source, variant)
    model = load(cls, checkpoint)
    before = trial_run(model)
    model.save_pretrained(folder)
    adapter = adapter_of(model, flax=checkpoint.is_flax)
    del model
    verification = verify_tensors(adapter, checkpoint.state_dict(), folder)
    verify_outputs(before, trial_run(cls.from_pretrained(folder)))
    return verification.with_check("both formats compute the same to the bit")


def _located(cls: Any, source: Source, variant: str | None) -> Any:
    checkpoint = locate(cls, source, variant)
    if checkpoint is None:
        raise OSError(
            f"{source} is no original checkpoint: neither a weights file, nor a folder or Hub repository with the "
            "original's config.json. If it holds a bare weights file, name the variant."
        )
    return checkpoint


def _write_pipeline(folder: Path, scheduler: MaskGitScheduler) -> None:
    """The rest of a pipeline around two models that are there already, whose weights are not read again."""
    tokenizer_config = TiTokConfig.from_pretrained(folder / "tokenizer")
    transformer_config = MaskGitTransformer1DModel.load_config(folder / "transformer")
    with torch.device("meta"):
        tokenizer = TiTokModel(tokenizer_config)
        transformer = MaskGitTransformer1DModel.from_config(transformer_config)
    pipe = TiTokPipeline(
        tokenizer=tokenizer,
        image_processor=TiTokImageProcessorPil(size=tokenizer_config.image_size),
        transformer=transformer,
        scheduler=scheduler,
        id2label=imagenet_id2label() if transformer.config.num_classes == IMAGENET_CLASSES else None,
    )
    pipe.scheduler.save_pretrained(folder / "scheduler")
    for part in ("image_processor", "tokenizer"):  # the second for `transformers.pipeline`
        pipe.image_processor.save_pretrained(folder / part)
    pipe.save_config(folder)


def _export_model(source: Path, folder: Path, form: str, config: Mapping[str, Any]) -> Verification:
    """Write one model of ours in the original's format, read that again, and compare with ours."""
    model = _class_of(source).from_pretrained(source)
    is_vqgan = isinstance(model, MaskGitVQGANModel)
    if form == "flax" and not is_vqgan:
        raise ValueError("Only the MaskGIT-VQGAN has a Flax form. Use safetensors or bin.")
    before = trial_run(model)
    ours, adapter = model.state_dict(), adapter_of(model, flax=form == "flax")
    folder.mkdir(exist_ok=True)
    path = _write_weights(adapter.to_original(ours), folder, form)
    if not is_vqgan:  # the original has no configuration for it
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    original = read_state_dict(path)
    verification = Verification.of(original)
    changed = [name for name, tensor in adapter.to_ours(original, path).items() if not same_bits(tensor, ours[name])]
    if changed:
        raise VerificationError(f"{len(changed)} tensors came back changed, {changed[0]} the first.")
    cls = type(model)
    del model, ours, original  # the largest is to be in memory twice at most
    verify_outputs(before, trial_run(load(cls, _located(cls, path if is_vqgan else folder, None))))
    return verification.with_check("both formats compute the same to the bit")


def _write_weights(tensors: dict[str, torch.Tensor], folder: Path, form: str) -> Path:
    if form == "flax":
        from .flax_checkpoint import flax_bytes  # needs msgpack

        path = folder / "checkpoint.msgpack"
        path.write_bytes(flax_bytes({name: tensor.numpy() for name, tensor in tensors.items()}))
    elif form == "bin":
        path = folder / "pytorch_model.bin"
        torch.save(tensors, path)
    else:
        path = folder / "model.safetensors"
        save_file(tensors, path)
    return path


def _original_config(folder: Path, scheduler: Path | None = None) -> dict[str, Any]:
    """The original's configuration of a model of ours; empty for a MaskGIT-VQGAN, which has none there."""
    cls = _class_of(folder)
    if cls is TiTokModel:
        return original_tokenizer_config(TiTokConfig.from_pretrained(folder))
    if cls is MaskGitVQGANModel:
        if network_fields(MaskGitVQGANConfig.from_pretrained(folder)) != network_fields(MaskGitVQGANConfig()):
            raise ValueError("The original knows one size of the MaskGIT-VQGAN, and this is another.")
        return {}
    settings = None if scheduler is None else MaskGitScheduler.load_config(scheduler)
    return original_generator_config(MaskGitTransformer1DModel.load_config(folder), settings)


def _class_of(folder: Path) -> Any:
    """Which of our classes wrote a folder."""
    path = folder / "config.json"
    if not path.is_file():
        raise OSError(f"{folder} is not a model of ours: it has no config.json.")
    config = read_json(path)
    name = str(config.get("_class_name") or config.get("model_type"))
    classes = {
        "titok": TiTokModel,
        "maskgit_vqgan": MaskGitVQGANModel,
        "MaskGitTransformer1DModel": MaskGitTransformer1DModel,
    }
    if name not in classes:
        raise ValueError(f"{path} is of a {name}, not of a model of ours. Exported are: {', '.join(classes)}.")
    return classes[name]


def _local_folder(model: Source) -> Path:
    if Path(model).is_dir():
        return Path(model)
    return Path(snapshot_download(str(model), allow_patterns=["*.json", "*.safetensors"]))


def _released_name(released: Mapping[str, Any], source: Source, variant: str | None) -> str | None:
    """Which released checkpoint a source is: the one that the caller names, or whose repository it is."""
    named = [name for name, entry in released.items() if name == variant or entry.repository == str(source)]
    return named[0] if named else None


def _name_of(source: Source) -> str:
    """What to call a source in public: a Hub id, or the last part of a path."""
    return Path(source).name if Path(source).exists() else str(source)


def _push(folder: Source, repository: str | None) -> None:
    if repository is not None:
        push_folder(folder, repository, message="Upload converted checkpoint")


__all__ = [
    "EXPORT_FORMS",
    "convert_all_tokenizers",
    "convert_generator",
    "convert_tokenizer",
    "convert_vqgan",
    "export_to_original",
]
