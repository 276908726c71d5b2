"""A file of codes: safetensors with the tokens of many images, the names of the images, and the name of the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundled import bundled_checkpoint
from ..checkpoints.locations import may_be_hub_id
from ..codebooks import codebook_fingerprint

if TYPE_CHECKING:
    import torch

    from titok_hf.modeling_titok import TiTokModel

_FORMAT = "titok_hf.codes.v1"
_UINT16_VALUES = 2**16


@dataclass(frozen=True)
class CodesFile:
    """
    Args:
        tokens: codes, integers of shape (images, num_tokens), or the float latents of a KL model, shape
            (images, num_tokens, codebook_dim). Models trained with tail drop may have kept the first tokens only.
        names: a file name for each image.
        model: name of the model, as the user gave it.
        codebook: see [`codebook_fingerprint`]; models with equal ones can decode each other's tokens. None in files of
            latents from older versions.
    """

    tokens: torch.Tensor
    names: list[str]
    model: str
    codebook: str | None

    @classmethod
    def of(cls, tokenizer: TiTokModel, rows: Sequence[torch.Tensor], names: list[str], model: str) -> CodesFile:
        """The tokens of the images `names` by `tokenizer`; codes take two bytes if the codebook is small enough."""
        import torch

        tokens = torch.cat(list(rows))
        if not tokens.is_floating_point():
            small = tokenizer.config.codebook_size <= _UINT16_VALUES
            tokens = tokens.to(torch.uint16 if small else torch.int32)
        return cls(tokens, names, model, codebook_fingerprint(tokenizer))

    @classmethod
    def read(cls, path: Path) -> CodesFile:
        """Read a file of codes; OSError if it is missing, damaged, or another kind of file."""
        from safetensors import SafetensorError, safe_open

        from titok_hf.accepted_values import integer_codes

        if not path.is_file():
            what = "is no file of codes" if path.exists() else "does not exist"
            raise FileNotFoundError(f"{path} {what}. Make one with `titok-hf encode`.")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                keys = list(file.keys())
                if metadata.get("format") != _FORMAT or keys not in (["codes"], ["latents"]):
                    raise OSError(f"{path} is no file of codes. Make one with `titok-hf encode`.")
                tokens = file.get_tensor(keys[0])
        except SafetensorError as error:
            raise OSError(f"{path} is damaged or no safetensors file ({error}).") from error
        try:
            names, model = list(json.loads(metadata["names"])), metadata["model"]
        except (KeyError, TypeError, ValueError) as error:
            raise OSError(f"{path} is damaged: its metadata do not name images and model. Encode again.") from error
        if len(names) != len(tokens) or not names:
            raise OSError(f"{path} is damaged: it has {len(names)} names for {len(tokens)} rows of codes.")
        if keys == ["codes"]:
            try:
                tokens = integer_codes(tokens)
            except ValueError as error:
                raise OSError(f"{path} is damaged: {error}") from error
        return cls(tokens, [str(name) for name in names], model, metadata.get("codebook"))

    def to_bytes(self) -> bytes:
        """The content of the file."""
        from safetensors.torch import save

        metadata = {"format": _FORMAT, "model": self.model, "names": json.dumps(self.names)}
        if self.codebook is not None:
            metadata["codebook"] = self.codebook
        key = "latents" if self.tokens.is_floating_point() else "codes"
        return save({key: self.tokens.contiguous()}, metadata=metadata)

    @property
    def bytes_per_image(self) -> int:
        """Size of the tokens of one image."""
        return self.tokens[0].numel() * self.tokens.element_size()

    def check_belongs_to(self, tokenizer: TiTokModel) -> None:
        """
        Raises:
            ValueError: the tokens were made with another codebook, or do not have the shape and range of this model's.
        """
        config = tokenizer.config
        continuous = not config.has_codebook
        shape = self.tokens.shape[1:]
        fewest = 1 if config.tail_drop else config.num_latent_tokens
        fits_shape = shape[1:] == config.token_shape[1:] and fewest <= sum(shape[:1]) <= config.num_latent_tokens
        fits = fits_shape and self.tokens.is_floating_point() == continuous
        written_before = continuous and self.codebook is None
        if not fits or not (written_before or self.codebook == codebook_fingerprint(tokenizer)):
            raise ValueError(
                f"These codes were made by the model {self.model!r}, and mean other images to this one. "
                + self._advice()
            )
        if not continuous and not 0 <= int(self.tokens.min()) <= int(self.tokens.max()) < config.codebook_size:
            raise ValueError(
                f"The codes span [{int(self.tokens.min())}, {int(self.tokens.max())}], but this model's lie in "
                f"[0, {config.codebook_size}). The file is damaged; encode the images again."
            )

    def _advice(self) -> str:
        """The model to use, if it can be found by its name."""
        if self.model == bundled_checkpoint().name:
            return "It is the one that comes with titok-hf: leave --model out."
        if may_be_hub_id(self.model) or Path(self.model).exists():
            return f"Pass --model {self.model}."
        return "Pass that model's folder or Hub id with --model."
