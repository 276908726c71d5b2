"""Converts whole checkpoints to our format and back, as folders, and verifies each conversion."""

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
from titok_hf.class_names import IMAGENET_CLASSES, imagenet_id2label
from titok_hf.configuration_maskgit_vqgan import MaskGitVQGANConfig
from titok_hf.configuration_titok import TiTokConfig
from titok_hf.image_processing_pil_titok import TiTokImageProcessorPil
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
"""Formats of weights that [`export_to_original`] writes; Flax for the MaskGIT-VQGAN only."""


def convert_tokenizer(
    source: Source, output: Source, variant: str | None = None, push_to_hub: str | None = None
) -> Verification:
    """
    Convert an original tokenizer to a folder of ours: model, image processor, card.

    Args:
        source: a folder, a Hub id or a bare weights file of the original.
        output: the folder to write, created after the conversion has been verified.
        variant: name of the released checkpoint; needed for a bare file.
        push_to_hub: id of a repository to upload the folder to.

    Raises:
        OSError: files that are missing, damaged or refused, or a folder that cannot be written.
        ValueError: weights that do not fit, or a conversion that changed something.
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
    Convert the released tokenizers to `output/titok-<variant>`.

    Args:
        output: the folder above them.
        source: a folder with the bare `.bin` files under their published names, for those that were released so; by
            default the Hub.
        push_to_hub: a user or organisation; the repositories are `<push_to_hub>/titok-<variant>`.
    """
    verifications = {}
    for variant, released in RELEASED_TOKENIZERS.items():
        if source is not None and released.file is None:
            continue
        folder = f"titok-{variant.replace('_', '-')}"
        verifications[variant] = convert_tokenizer(
            released.repository if source is None else Path(source, str(released.file)),
            Path(output, folder),
            variant=None if source is None else variant,
            push_to_hub=f"{push_to_hub}/{folder}" if push_to_hub else None,
        )
    return verifications


def convert_vqgan(source: Source, output: Source, push_to_hub: str | None = None) -> Verification:
    """Convert the MaskGIT-VQGAN, from its PyTorch or Flax file; arguments and errors as [`convert_tokenizer`]."""
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
    Convert an original generator to a folder of ours. With its tokenizer, the folder is a complete pipeline:
    tokenizer, transformer, scheduler with the benchmark's settings, image processor and class names.

    Args:
        source, output, variant, push_to_hub: as for [`convert_tokenizer`], with the same errors.
        tokenizer: the original tokenizer. Without it, only transformer and scheduler are written.

    Returns:
        the verification of the generator, then of the tokenizer.
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
    Convert a model of ours to the original's format, which the original implementation loads with `strict=True`.

    Args:
        model: a folder or Hub id of a tokenizer, a generator, a MaskGIT-VQGAN, or a pipeline, of which tokenizer and
            generator are written to folders of these names.
        output: the folder to write, created after the conversion has been verified.
        form: one of `EXPORT_FORMS`.

    Raises:
        OSError: files that are missing or damaged, or a folder that cannot be written.
        ValueError: a model that the original's format cannot describe, or a form that does not exist for it.
    """
    if form not in EXPORT_FORMS:
        raise ValueError(f"form is {form!r}. Use one of {', '.join(EXPORT_FORMS)}.")
    if form == "flax":
        importlib.import_module("msgpack")  # of the extra `convert`: fails before the work if it is missing
    source = _local_folder(model)
    with checkpoint_atomically(output) as folder:
        if not (source / INDEX_NAME).exists():
            return [_export_model(source, folder, form, _original_config(source))]
        # Parts that the index does not name may be of an earlier pipeline.
        parts = {"tokenizer": "tokenizer"}
        configs = [_original_config(source / "tokenizer")]
        if read_index(source).get("transformer", [None])[0] is not None:
            parts["transformer"] = "generator"
            configs.append(_original_config(source / "transformer", source / "scheduler"))
        verifications = []
        # As in the original, the configuration of each model describes both.
        config = {"model": {}, **configs[0]}
        for other in reversed(configs):
            config["model"] = config["model"] | other["model"]
        for part, name in parts.items():
            verifications.append(_export_model(source / part, folder / name, form, config))
    return verifications


def _convert_model(cls: Any, source: Source, variant: str | None, folder: Path) -> Verification:
    """Read an original checkpoint, write ours, and compare both; at most two copies of the weights are in memory."""
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
    """The rest of a pipeline whose models are saved already."""
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
    for part in ("image_processor", "tokenizer"):  # `transformers.pipeline` needs it beside the tokenizer
        pipe.image_processor.save_pretrained(folder / part)
    pipe.save_config(folder)


def _export_model(source: Path, folder: Path, form: str, config: Mapping[str, Any]) -> Verification:
    """Write a model in the original's format, read that and compare."""
    model = _class_of(source).from_pretrained(source)
    is_vqgan = isinstance(model, MaskGitVQGANModel)
    if form == "flax" and not is_vqgan:
        raise ValueError("Only the MaskGIT-VQGAN has a Flax form. Use safetensors or bin.")
    before = trial_run(model)
    ours, adapter = model.state_dict(), adapter_of(model, flax=form == "flax")
    folder.mkdir(exist_ok=True)
    tensors = adapter.to_original(ours)
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
    del tensors
    if not is_vqgan:  # the original has no configuration for it
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    original = read_state_dict(path)
    verification = Verification.of(original)
    changed = [name for name, tensor in adapter.to_ours(original, path).items() if not same_bits(tensor, ours[name])]
    if changed:
        raise VerificationError(f"{len(changed)} tensors differ after the conversion, {changed[0]} the first.")
    cls = type(model)
    del model, ours, original  # to have at most two copies of the weights in memory
    verify_outputs(before, trial_run(load(cls, _located(cls, path if is_vqgan else folder, None))))
    return verification.with_check("both formats compute the same to the bit")


def _original_config(folder: Path, scheduler: Path | None = None) -> dict[str, Any]:
    """The original's configuration of a model of ours; empty for a MaskGIT-VQGAN, which has none."""
    cls = _class_of(folder)
    if cls is TiTokModel:
        return original_tokenizer_config(TiTokConfig.from_pretrained(folder))
    if cls is MaskGitVQGANModel:
        if network_fields(MaskGitVQGANConfig.from_pretrained(folder)) != network_fields(MaskGitVQGANConfig()):
            raise ValueError("The original's MaskGIT-VQGAN has one size, and this model has another.")
        return {}
    settings = None if scheduler is None else MaskGitScheduler.from_pretrained(scheduler).config
    return original_generator_config(MaskGitTransformer1DModel.load_config(folder), settings)


def _class_of(folder: Path) -> Any:
    """The class of the model in a folder."""
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
    """Name of the released checkpoint that the caller names, or whose repository the source is."""
    return next((name for name, it in released.items() if name == variant or it.repository == str(source)), None)


def _name_of(source: Source) -> str:
    """Name of a source in a card: a Hub id, or the last part of a path."""
    return Path(source).name if Path(source).exists() else str(source)


def _push(folder: Source, repository: str | None) -> None:
    if repository is not None:
        push_folder(folder, repository, message="Upload converted checkpoint")
