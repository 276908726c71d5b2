"""Exported programs in the place of the models: a tokenizer and a generator without weights in PyTorch."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict

from ..configuration_maskgit import checked_ids
from ..configuration_titok import TiTokConfig
from ..modeling_maskgit import MaskGitTransformer1DOutput
from ..modeling_titok import TiTokDecoderOutput, TiTokEncoderOutput
from ..quantization_titok import QUANTIZERS
from .engines import Engine
from .folder import SavedProgram
from .programs import token_input


class ProgramRunner:
    """
    Runs one exported program. It is opened at the first call.

    Args:
        engine: that it was exported for.
        saved: its files.
        device: where the engine computes; None is the CPU. Inputs and outputs are on the CPU.
    """

    def __init__(self, engine: Engine, saved: SavedProgram, device: str | None = None) -> None:
        self.engine, self.saved, self.device = engine, saved, device

    @cached_property
    def _runner(self) -> Any:
        from transformers.exporters.metadata import ExportMetadata

        self.saved.check_contents()
        metadata = ExportMetadata.from_dict(self.saved.metadata)
        try:
            return self.engine.open(self.saved.path, metadata, self.device)
        except ValueError:
            raise
        except Exception as error:  # each engine raises errors of its own
            reason = " ".join(str(error).split())
            raise OSError(f"{self.engine.title} cannot open {self.saved.path}: {reason}") from error

    def __call__(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Outputs of the program by name."""
        parts = zip(*(tensor.detach().cpu().split(self._rows(tensor)) for tensor in inputs.values()), strict=True)
        outputs = [
            self._runner(**{name: tensor.contiguous() for name, tensor in zip(inputs, part, strict=True)})
            for part in parts
        ]
        return {name: torch.cat([output[name].cpu() for output in outputs]) for name in outputs[0]}

    def _rows(self, tensor: torch.Tensor) -> int:
        return self.engine.largest_batch or max(1, len(tensor))


class ExportedTokenizer:
    """
    A [`TiTokModel`] for inference, of which encoder and decoder are exported programs.

    Args:
        config: of the model.
        encoder, decoder: the programs.
        codebook: see [`codebook_fingerprint`].
    """

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, config: TiTokConfig, encoder: ProgramRunner, decoder: ProgramRunner, codebook: str) -> None:
        self.config, self.encoder, self.decoder, self.codebook = config, encoder, decoder, codebook

    def encode(
        self,
        pixel_values: torch.Tensor,
        sample_posterior: bool = True,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        num_tokens: int | None = None,
    ) -> TiTokEncoderOutput | tuple:
        """As [`TiTokModel.encode`], without losses and hidden states, and with all tokens only."""
        self.config.check_pixel_values(pixel_values)
        if num_tokens is not None:
            self._check_all_tokens(self.config.checked_num_tokens(num_tokens))
        tokens = self.encoder(pixel_values=pixel_values)
        if not self.config.has_codebook:
            # The quantiser of KL models has no weights: what it computes is not part of the program.
            moments = torch.cat([tokens["posterior_mean"], tokens["posterior_logvar"]], dim=-1)
            quantizer = QUANTIZERS[self.config.quantizer](self.config)
            tokens = quantizer(moments, sample_posterior=sample_posterior, generator=generator)
        output = TiTokEncoderOutput(**tokens)
        return output if return_dict else output.to_tuple()

    def decode(
        self, codes: torch.Tensor | None = None, latents: torch.Tensor | None = None, return_dict: bool = True
    ) -> TiTokDecoderOutput | tuple:
        """As [`TiTokModel.decode`], from codes for a model with a codebook and from latents for a KL model."""
        name = token_input(self.config)
        given = {"codes": codes, "latents": latents}
        tokens = given.pop(name)
        if tokens is None or next(iter(given.values())) is not None:
            raise ValueError(f"The decoder was exported with {name} as its input. Pass {name}=, and nothing else.")
        if name == "codes":
            tokens = self.config.checked_codes(tokens)
        else:
            self.config.check_latents(tokens)
            tokens = tokens.float()
        self._check_all_tokens(tokens.shape[1])
        output = TiTokDecoderOutput(**self.decoder(**{name: tokens}))
        return output if return_dict else output.to_tuple()

    def _check_all_tokens(self, num_tokens: int) -> None:
        if num_tokens != self.config.num_latent_tokens:
            raise ValueError(
                f"There are {num_tokens} tokens for each image, but programs are exported for all "
                f"{self.config.num_latent_tokens}. Use the model itself for fewer."
            )


class ExportedGenerator:
    """
    A [`MaskGitTransformer1DModel`] for inference, as an exported program.

    Args:
        config: the configuration of the model.
        program: one step of sampling.
    """

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, config: dict[str, Any], program: ProgramRunner) -> None:
        self.config = FrozenDict(config)
        self.program = program

    @property
    def mask_token_id(self) -> int:
        """The id of a masked code: the first one after the codebook."""
        return self.config.codebook_size

    @property
    def null_class_label(self) -> int:
        """The class label for no class, used for guidance."""
        return self.config.num_classes

    def __call__(
        self, input_ids: torch.Tensor, class_labels: torch.Tensor, return_dict: bool = True
    ) -> MaskGitTransformer1DOutput | tuple[torch.Tensor]:
        """As [`MaskGitTransformer1DModel.forward`]."""
        input_ids, class_labels = checked_ids(self.config, input_ids, class_labels)
        logits = self.program(input_ids=input_ids, class_labels=class_labels)["logits"]
        return MaskGitTransformer1DOutput(logits=logits) if return_dict else (logits,)
