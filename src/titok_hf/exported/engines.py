"""The engines: what each needs to be installed, in which precisions it exports, how it is written, opened and run."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..extras import distribution_of
from .programs import Program

# Larger weights lie in a file beside the graph: protobuf, the format of ONNX files, ends at 2 GB.
_LARGEST_ONNX_FILE = 1_500_000_000
# ExecuTorch plans the memory of a program for a largest batch, which the exporter chooses: 15 for the bundled decoder.
_LARGEST_EXECUTORCH_BATCH = 8
_FOUR_BIT_BLOCK = 32  # weights that share a scale; what ONNX Runtime's kernels are fastest with


@dataclass(frozen=True)
class Precision:
    """
    Args:
        dtype: of the weights and of the computation, before quantisation.
        extra_modules: what this precision needs beyond its engine.
    """

    dtype: torch.dtype = torch.float32
    extra_modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Engine:
    """
    Args:
        name: of the engine, of its folder in an export, and of the extra of this package that installs it.
        modules: what must be installed to run it.
        exporter_modules: what must be installed to export to it.
        precisions: by name; a file name ends in `_` and the name, except for "fp32".
        suffix: of its files.
        largest_batch: larger batches are computed in parts; None is any.
    """

    name: str
    title: str
    modules: tuple[str, ...]
    exporter_modules: tuple[str, ...]
    suffix: str
    precisions: Mapping[str, Precision] = field(default_factory=lambda: {"fp32": Precision()})
    largest_batch: int | None = None

    def check_installed(self, precision: str | None = None) -> None:
        """
        Raises:
            ImportError: something that running needs, or with a precision, exporting to it; names the extra.
        """
        wanted = list(self.modules)
        if precision is not None:
            wanted += [*self.exporter_modules, *self.precisions[precision].extra_modules]
        missing = [distribution_of(module) for module in wanted if find_spec(module) is None]
        if missing:
            raise ImportError(
                f"{self.title} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
                f'installed. Install {"it" if len(missing) == 1 else "them"} with: pip install "titok-hf[{self.name}]"'
            )
        if find_spec("transformers.exporters.runners") is None:
            raise ImportError(
                f"{self.title} needs transformers 5.23 or newer, which needs Python 3.11. Install both, then "
                f'"titok-hf[{self.name}]".'
            )

    def file_name(self, program: str, precision: str) -> str:
        """Where a program lies in the folder of an export ("onnx/encoder_model_fp16.onnx")."""
        return f"{self.name}/{program}{'' if precision == 'fp32' else f'_{precision}'}{self.suffix}"

    def export(self, program: Program, precision: str) -> Any:
        """The graph of a program for any batch size, with its metadata; a `transformers` `ExportedComponent`."""
        batch = {0: torch.export.Dim.DYNAMIC}
        example = program.example()
        with _without_messages():
            exporter, config = self._exporter(precision, {name: batch for name in example})
            return next(iter(exporter.export(program, example, config).components.values()))

    def save(self, component: Any, path: Path) -> list[Path]:
        """Write an exported graph; returns the files, of which `path` is the first."""
        raise NotImplementedError

    def open(self, path: Path, metadata: Any, device: str | None) -> Any:
        """A `transformers` `ModelRunner` of a graph that was written to `path`."""
        raise NotImplementedError

    def _exporter(self, precision: str, dynamic_shapes: dict[str, Any]) -> tuple[Any, Any]:
        """The exporter of transformers, and its configuration."""
        raise NotImplementedError


class OnnxEngine(Engine):
    """ONNX Runtime, also in browsers. Its graphs are plain ONNX, without operators of one provider."""

    def _exporter(self, precision: str, dynamic_shapes: dict[str, Any]) -> tuple[Any, Any]:
        from transformers.exporters import OnnxConfig, OnnxExporter

        quantizer = None
        if precision == "int8":
            quantizer = _dynamic_int8()
        elif precision == "q4":
            quantizer = _four_bit_weights()
        return OnnxExporter(), OnnxConfig(dynamic_shapes=dynamic_shapes, quantizer=quantizer)

    def save(self, component: Any, path: Path) -> list[Path]:
        import onnx_ir

        initializers = component.program.graph.initializers.values()
        size = sum(value.const_value.nbytes for value in initializers if value.const_value is not None)
        if size < _LARGEST_ONNX_FILE:
            onnx_ir.save(component.program, path)
            return [path]
        beside = path.with_name(f"{path.name}_data")  # the name that transformers.js expects
        onnx_ir.save(component.program, path, external_data=beside.name)
        return [path, beside]

    def open(self, path: Path, metadata: Any, device: str | None) -> Any:
        import onnxruntime
        from transformers.exporters.runners.runner_onnx import OnnxModelRunner

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors only
        # The runner reads nothing else of a graph that lies in a file, and parsing it would need its size in memory.
        saved = _SavedGraph({"path": str(path)})
        return OnnxModelRunner.from_program(saved, metadata, device, session_options=options)


@dataclass(frozen=True)
class _SavedGraph:
    meta: dict[str, str]


def _dynamic_int8() -> Any:
    """Linear layers in int8, one scale for each output channel; activations are quantised while running."""
    from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

    config = OnnxRuntimeDynamicConfig(op_types_to_quantize=["MatMul", "Gemm"], per_channel=True)
    return OnnxRuntimeQuantizer(config)


def _four_bit_weights() -> Any:
    """Linear layers with weights of 4 bits, one scale for 32 of them; they are computed with in float32."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from transformers.exporters import ExportFormat, ExportQuantizer

    class FourBitWeights(ExportQuantizer):
        supported_formats = (ExportFormat.ONNX,)

        def quantize(self, model: Any, sample_inputs: dict[str, Any], export_format: Any) -> Any:
            import onnx_ir

            quantizer = MatMulNBitsQuantizer(onnx_ir.to_proto(model), block_size=_FOUR_BIT_BLOCK, is_symmetric=True)
            quantizer.process()
            return onnx_ir.from_proto(quantizer.model.model)

    return FourBitWeights()


class OpenVinoEngine(Engine):
    """OpenVINO, whose CPU plugin computes in bfloat16 only where the export asks for it."""

    def _exporter(self, precision: str, dynamic_shapes: dict[str, Any]) -> tuple[Any, Any]:
        from transformers.exporters import OpenVINOConfig, OpenVINOExporter

        quantizer = None
        if precision == "int8":
            from transformers.exporters import NNCFOpenVINOQuantizer, NNCFWeightCompressionConfig

            quantizer = NNCFOpenVINOQuantizer(NNCFWeightCompressionConfig())
        return OpenVINOExporter(), OpenVINOConfig(dynamic_shapes=dynamic_shapes, quantizer=quantizer)

    def save(self, component: Any, path: Path) -> list[Path]:
        from transformers.exporters import OpenVINOExporter

        OpenVINOExporter.save_program(component.program, path)
        return [path.with_name(name) for name in OpenVINOExporter.program_files(path.name)]

    def open(self, path: Path, metadata: Any, device: str | None) -> Any:
        from transformers.exporters import OpenVINOExporter
        from transformers.exporters.runners.runner_openvino import OpenVINOModelRunner

        threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
        config = threads if device in (None, "cpu") else None
        return OpenVINOModelRunner.from_program(
            OpenVINOExporter.load_program(path), metadata, device or "cpu", config=config
        )


class ExecuTorchEngine(Engine):
    """ExecuTorch with its CPU backend XNNPACK, for phones and other small devices."""

    def _exporter(self, precision: str, dynamic_shapes: dict[str, Any]) -> tuple[Any, Any]:
        from transformers.exporters import ExecutorchConfig, ExecutorchExporter

        return ExecutorchExporter(), ExecutorchConfig(dynamic_shapes=dynamic_shapes)

    def save(self, component: Any, path: Path) -> list[Path]:
        from transformers.exporters import ExecutorchExporter

        ExecutorchExporter.save_program(component.program, path)
        return [path]

    def open(self, path: Path, metadata: Any, device: str | None) -> Any:
        from transformers.exporters import ExecutorchExporter
        from transformers.exporters.runners.runner_executorch import ExecutorchModelRunner

        return ExecutorchModelRunner.from_program(ExecutorchExporter.load_program(path), metadata)


_ENGINES = (
    OnnxEngine(
        name="onnx",
        title="ONNX Runtime",
        modules=("onnxruntime", "onnx_ir"),
        exporter_modules=("onnx", "onnxscript"),
        suffix=".onnx",
        precisions={
            "fp32": Precision(),
            "fp16": Precision(torch.float16),
            "int8": Precision(),
            "q4": Precision(),
        },
    ),
    OpenVinoEngine(
        name="openvino",
        title="OpenVINO",
        modules=("openvino",),
        exporter_modules=(),
        suffix=".xml",
        precisions={
            "fp32": Precision(),
            "fp16": Precision(torch.float16),
            "bf16": Precision(torch.bfloat16),
            "int8": Precision(extra_modules=("nncf",)),
        },
    ),
    ExecuTorchEngine(
        name="executorch",
        title="ExecuTorch",
        modules=("executorch",),
        exporter_modules=(),
        suffix=".pte",
        largest_batch=_LARGEST_EXECUTORCH_BATCH,
    ),
)
ENGINES: dict[str, Engine] = {engine.name: engine for engine in _ENGINES}
"""The engines by name."""


@contextmanager
def _without_messages() -> Iterator[None]:
    """A block whose libraries write neither progress to stdout nor warnings: what is exported is compared anyway."""
    loggers = [logging.getLogger(name) for name in ("transformers", "torch.onnx", "torch.export", "nncf", "root")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def engine_of(name: str) -> Engine:
    """An engine by name; ValueError for an unknown one."""
    if name not in ENGINES:
        raise ValueError(f"{name!r} is not an engine. Use one of {', '.join(ENGINES)}.")
    return ENGINES[name]


def check_precision(engine: Engine, precision: str) -> None:
    """ValueError for a precision that an engine does not export."""
    if precision not in engine.precisions:
        known = ", ".join(engine.precisions)
        raise ValueError(f"{precision!r} is not a precision that {engine.title} is exported in. Use one of {known}.")
