"""An engine for tests of what does not depend on the engine: torch.export alone, which takes the shortest time."""

import torch

from titok_hf.exported.engines import Engine, Precision


class PlainEngine(Engine):
    def _exporter(self, precision, dynamic_shapes):
        from transformers.exporters import DynamoConfig, DynamoExporter

        return DynamoExporter(), DynamoConfig(dynamic_shapes=dynamic_shapes)

    def save(self, component, path):
        torch.export.save(component.program, path)
        return [path]

    def open(self, path, metadata, device):
        from transformers.exporters.runners.runner_dynamo import DynamoModelRunner

        return DynamoModelRunner.from_program(torch.export.load(path), metadata)


PLAIN = PlainEngine(
    "plain", "torch.export", ("torch",), (), ".pt2", {"fp32": Precision(), "bf16": Precision(torch.bfloat16)}
)
