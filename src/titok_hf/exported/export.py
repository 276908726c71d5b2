"""Writes exports: a pipeline's programs for an engine, compared with PyTorch before the folder changes."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..checkpoints.atomic_files import folder_atomically
from ..checkpoints.layout import EXPORT_NAME, VERSION_KEY
from ..codebooks import codebook_fingerprint
from ..pipeline_titok import TiTokPipeline
from .engines import Engine, check_precision, engine_of
from .folder import FORMAT_VERSION, ExportFolder, SavedProgram, describe_files
from .losses import check_agreement, measure_losses
from .pipeline_exported import ExportedTiTokPipeline, pipeline_of
from .programs import DECODER, ENCODER, GENERATOR, DecoderProgram, EncoderProgram, GeneratorProgram, Program

# Keys of configurations that say where a model was loaded from or which libraries saved it.
_PRIVATE_KEYS = ("_name_or_path", "_diffusers_version", "transformers_version", "auto_map", "architectures", "dtype")


def export_pipeline(
    pipe: TiTokPipeline,
    output: str | os.PathLike,
    engine: str = "onnx",
    precisions: Sequence[str] = ("fp32",),
    model: str = "",
) -> list[dict[str, Any]]:
    """
    Export encoder, decoder and, if there is one, the generator of a pipeline, for any batch size.

    Each export is run and compared with PyTorch before the folder changes; in float32 it must agree. An export of the
    same model that the folder has already stays, unless it is of the same engine and precision; those of another model
    are removed. Other files stay.

    Args:
        pipe: in float32.
        output: the folder to write.
        engine: `"onnx"`, `"openvino"` or `"executorch"`.
        precisions: such as `"fp32"` and `"int8"`.
        model: the name of the model, to be recorded.

    Returns:
        the losses of each precision, see [`measure_losses`].

    Raises:
        ImportError: the engine is not installed.
        ValueError: an unknown engine or precision, a model that is not in float32, or an export that differs from
            PyTorch.
        OSError: the folder cannot be written.
    """
    chosen = engine_of(engine)
    for precision in precisions:
        check_precision(chosen, precision)
        chosen.check_installed(precision)
    if isinstance(pipe, ExportedTiTokPipeline):
        raise ValueError("This model is an export already. Export the model that it was made from.")
    parts = [part for part in (pipe.tokenizer, pipe.transformer) if part is not None]
    if any(part.dtype != torch.float32 for part in parts):
        raise ValueError(
            f"The model is in {pipe.tokenizer.dtype}, and an export begins with float32. Load it with "
            "dtype=torch.float32, and choose the precision of the export with precisions."
        )
    pipe = _for_inference(pipe)
    description = _describe(pipe, model)
    old = _exports_to_keep(Path(output), description, engine, precisions)

    def outdated(there: Any, new: Any) -> list[str]:
        return sorted(_files_of(_exports_of(Path(output))) - _files_of(old))

    with folder_atomically(output, last=(EXPORT_NAME,), outdated=outdated) as folder:
        new = [_export(pipe, description, folder, chosen, precision) for precision in precisions]
        description["exports"] = [*old, *new]
        text = json.dumps(description, indent=2, allow_nan=False) + "\n"
        (folder / EXPORT_NAME).write_text(text, encoding="utf-8")
    return [export["losses"] for export in new]


def _export(
    pipe: TiTokPipeline, description: dict[str, Any], folder: Path, engine: Engine, precision: str
) -> dict[str, Any]:
    """One engine and precision: the programs are written to `folder`, opened, run and compared."""
    programs: dict[str, SavedProgram] = {}
    for name, program in _programs(pipe, engine, precision).items():
        component = engine.export(program, precision)
        path = folder / engine.file_name(name, precision)
        path.parent.mkdir(parents=True, exist_ok=True)
        files = describe_files(folder, engine.save(component, path))
        metadata = {key: value for key, value in asdict(component.metadata).items() if key != "export_config"}
        programs[name] = SavedProgram(folder, files, metadata)
    losses = measure_losses(pipe, pipeline_of(description, engine, programs))
    if precision == "fp32":
        check_agreement(losses)
    return {
        "engine": engine.name,
        "precision": precision,
        "losses": losses,
        "programs": {name: {"files": saved.files, "metadata": saved.metadata} for name, saved in programs.items()},
    }


def _programs(pipe: TiTokPipeline, engine: Engine, precision: str) -> dict[str, Program]:
    """The programs of a pipeline in the dtype of a precision."""
    dtype = engine.precisions[precision].dtype
    # OpenVINO's exporter keeps inputs in float32 by itself, and reads the precision from the first parameter.
    float_inputs = dtype != torch.float32 and engine.name != "openvino"
    tokenizer = _prepared(pipe.tokenizer, dtype)
    programs: dict[str, Program] = {
        ENCODER: EncoderProgram(tokenizer, float_inputs),
        DECODER: DecoderProgram(tokenizer, float_inputs),
    }
    if pipe.transformer is not None:
        programs[GENERATOR] = GeneratorProgram(_prepared(pipe.transformer, dtype))
    return {name: program.eval() for name, program in programs.items()}


def _for_inference(pipe: TiTokPipeline) -> TiTokPipeline:
    """A pipeline on the CPU, in evaluation mode, with the same weights."""
    transformer = None if pipe.transformer is None else _prepared(pipe.transformer, torch.float32)
    tokenizer = _prepared(pipe.tokenizer, torch.float32)
    return TiTokPipeline(tokenizer, pipe.image_processor, transformer, pipe.scheduler, pipe.id2label)


def _prepared(model: Any, dtype: torch.dtype) -> Any:
    """A copy of a model for inference on the CPU, which shares its weights where they are as wanted."""
    shared = {
        id(parameter): torch.nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in model.parameters()
        if parameter.device.type == "cpu"
    }
    # Not diffusers' own `to`, which warns of a choice that the caller has made.
    return torch.nn.Module.to(copy.deepcopy(model, shared).eval(), "cpu", dtype)


def _describe(pipe: TiTokPipeline, model: str) -> dict[str, Any]:
    """What a program that uses an export must know, also one that is not written in Python."""
    config, transformer = pipe.tokenizer.config, pipe.transformer
    described = {
        "format_version": FORMAT_VERSION,
        VERSION_KEY: __version__,
        "model": model,
        "fingerprint": _fingerprint(pipe),
        "image_size": config.image_size,
        "num_channels": config.num_channels,
        "num_latent_tokens": config.num_latent_tokens,
        "codebook_size": config.codebook_size if config.has_codebook else None,
        "codebook_dim": config.codebook_dim,
        "codebook": codebook_fingerprint(pipe.tokenizer),
        "tokenizer": _public(config.to_diff_dict()),
        "image_processor": _public(pipe.image_processor.to_dict()),
        "generator": None,
    }
    if transformer is not None:
        scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        described |= {
            "mask_token_id": transformer.mask_token_id,
            "num_classes": transformer.config.num_classes,
            "null_class_label": transformer.null_class_label,
            "id2label": {str(label): name for label, name in pipe.id2label.items()},
            "generator": _public(transformer.config),
            "scheduler": _public(json.loads(scheduler.to_json_string())),
            "default_steps": {
                "mask_ratios": scheduler.mask_ratios,
                "temperatures": scheduler.temperatures,
                "softmax_temperatures": scheduler.softmax_temperatures,
                "guidance_scales": scheduler.guidance_scales,
            },
        }
    return described


def _public(configuration: Any) -> dict[str, Any]:
    return {key: value for key, value in dict(configuration).items() if key not in _PRIVATE_KEYS}


def _fingerprint(pipe: TiTokPipeline) -> str:
    """A SHA-256 of all weights, by which exports of one model are recognised."""
    hashed = hashlib.sha256()
    for part in (pipe.tokenizer, pipe.transformer):
        for name, tensor in sorted(part.state_dict().items()) if part is not None else ():
            hashed.update(name.encode())
            hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return hashed.hexdigest()


def _exports_of(output: Path) -> list[dict[str, Any]]:
    """The exports that a folder has; none where there is no export, or a damaged one."""
    try:
        return ExportFolder.read(output).exports
    except OSError:
        return []


def _exports_to_keep(
    output: Path, description: dict[str, Any], engine: str, precisions: Sequence[str]
) -> list[dict[str, Any]]:
    """The exports of the same model in a folder that are not written again."""
    exports = _exports_of(output)
    if not exports or ExportFolder.read(output).description["fingerprint"] != description["fingerprint"]:
        return []
    return [export for export in exports if export["engine"] != engine or export["precision"] not in precisions]


def _files_of(exports: Sequence[dict[str, Any]]) -> set[str]:
    return {name for export in exports for program in export["programs"].values() for name in program["files"]}
