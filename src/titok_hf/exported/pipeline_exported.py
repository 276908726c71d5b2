"""ExportedTiTokPipeline: the pipeline on ONNX Runtime, OpenVINO or ExecuTorch, without a model in PyTorch."""

from __future__ import annotations

import os
from typing import Any

from ..configuration_titok import TiTokConfig
from ..pipeline_titok import TiTokPipeline
from ..scheduling_maskgit import MaskGitScheduler
from .engines import Engine
from .folder import ExportFolder, SavedProgram
from .programs import DECODER, ENCODER, GENERATOR
from .runtime import ExportedGenerator, ExportedTokenizer, ProgramRunner


class ExportedTiTokPipeline(TiTokPipeline):
    """
    A [`TiTokPipeline`] whose encoder, decoder and generator run on another engine than PyTorch. It is called like
    one; the scheduler and the image processor are the same, so that a seed gives the same codes.

    Example:
        >>> pipe = ExportedTiTokPipeline.from_pretrained("exported")
        >>> image = pipe("Sneaker", generator=torch.Generator().manual_seed(0)).images[0]
    """

    @classmethod
    def from_pretrained(  # type: ignore[override]  # what is loaded has neither dtype nor variants
        cls,
        export_folder: str | os.PathLike,
        engine: str | None = None,
        precision: str | None = None,
        device: str | None = None,
        **hub_arguments: Any,
    ) -> ExportedTiTokPipeline:
        """
        Load an export.

        Args:
            export_folder: a folder that `titok-hf export` wrote, or the id of a Hub repository with its files.
            engine: `"onnx"`, `"openvino"` or `"executorch"`; by default the first one that the folder has.
            precision: such as `"fp32"` or `"int8"`; by default `"fp32"` where the folder has it.
            device: where the engine computes: `"cpu"`, the default; `"cuda"` for ONNX Runtime's build for it; `"xpu"`
                for OpenVINO on a GPU of Intel. Results are on the CPU in any case.
            hub_arguments: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`.

        Raises:
            OSError: no export there, or a file of it is missing, damaged or of another model.
            ValueError: an engine or a precision that the folder does not have.
            ImportError: the engine is not installed.
        """
        folder = ExportFolder.read(export_folder, **hub_arguments)
        chosen, export = folder.choose(engine, precision)
        chosen.check_installed()
        return pipeline_of(folder.description, chosen, folder.programs(export), device)

    def to(self, *args: Any, **kwargs: Any) -> ExportedTiTokPipeline:
        """Refused, except for the CPU, where inputs and outputs are."""
        if {str(value) for value in (*args, *kwargs.values())} - {"cpu"}:
            raise ValueError(
                "An exported pipeline cannot be moved or converted. Choose device and precision in "
                "ExportedTiTokPipeline.from_pretrained."
            )
        return self

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Refused: there are no weights to save."""
        raise NotImplementedError("An exported pipeline has no weights to save. Copy the folder of the export.")


def pipeline_of(
    description: dict[str, Any], engine: Engine, programs: dict[str, SavedProgram], device: str | None = None
) -> ExportedTiTokPipeline:
    """A pipeline of the programs that `titok_export.json` describes."""

    def runner(name: str) -> ProgramRunner:
        return ProgramRunner(engine, programs[name], device)

    config = TiTokConfig(**description["tokenizer"])
    parts: dict[str, Any] = {
        "tokenizer": ExportedTokenizer(config, runner(ENCODER), runner(DECODER), description["codebook"]),
        "image_processor": ExportedTiTokPipeline.image_processor_class(**description["image_processor"]),
    }
    if description["generator"] is not None:
        parts["transformer"] = ExportedGenerator(description["generator"], runner(GENERATOR))
        parts["scheduler"] = MaskGitScheduler.from_config(description["scheduler"])
        parts["id2label"] = description["id2label"]
    return ExportedTiTokPipeline(**parts)
