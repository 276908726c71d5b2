"""A short name for the meaning of a model's tokens."""

import hashlib
from typing import Any


def codebook_fingerprint(tokenizer: Any) -> str:
    """
    Sixteen hexadecimal digits of a hash of the weights that define the meaning of tokens: the codebook, or without one
    (KL models) the projection of the encoder to its latents. An exported tokenizer has it as `codebook`.
    """
    recorded = getattr(tokenizer, "codebook", None)
    if recorded is not None:
        return recorded
    weight = next(tokenizer.quantizer.parameters(), tokenizer.encoder.output_projection.weight)
    return hashlib.sha256(weight.detach().float().cpu().numpy().astype("<f4").tobytes()).hexdigest()[:16]
