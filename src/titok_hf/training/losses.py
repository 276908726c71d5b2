"""
The losses of the recipes, each a mean over a process's share of the batch. Their mean over processes is what one
process would compute for the whole batch.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F


def weighted_loss(terms: Mapping[str, torch.Tensor], weights: Mapping[str, float]) -> dict[str, torch.Tensor]:
    """
    Unweighted scalar terms, and `loss`, their sum weighted by name. A term of weight 0 costs a backward pass too.

    Raises:
        KeyError: a term without a weight.
    """
    total = sum((weights[name] * term for name, term in terms.items()), start=torch.zeros(()))
    return {"loss": total, **terms}


def pixel_loss(prediction: torch.Tensor, target: torch.Tensor, norm: Literal["l2", "l1"] = "l2") -> torch.Tensor:
    """
    Mean squared or absolute error of images in float32, a scalar: the reconstruction term of stage 2 and of the single
    stage.

    Args:
        prediction, target: float, shape (batch, channels, height, width), nominally in [0, 1].
        norm: "l2", the published recipes', or "l1".
    """
    distance = F.mse_loss if norm == "l2" else F.l1_loss
    return distance(prediction.float(), target.float())


def proxy_code_loss(logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """
    Stage 1's reconstruction term: cross-entropy in nats of the codes that the teacher gives to an image's patches,
    mean over patches, in float32 (paper, "Two-stage training of TiTok with proxy codes").

    Args:
        logits: float, shape (batch, num_patches, proxy_codebook_size).
        codes: the teacher's, int64, shape (batch, num_patches).
    """
    return F.cross_entropy(logits.float().flatten(0, 1), codes.flatten())


def masked_token_loss(
    logits: torch.Tensor,
    codes: torch.Tensor,
    mask: torch.Tensor,
    label_smoothing: float,
    unmasked_weight: float,
    sum_of_weights: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """
    Cross-entropy of the true codes; masked tokens have weight 1, the others `unmasked_weight`.

    Args:
        logits: float, shape (batch, num_tokens, codebook_size).
        codes: the true ones, int64, shape (batch, num_tokens).
        mask: True where the model saw a mask token, bool, shape (batch, num_tokens).
        label_smoothing: share of the target that is spread over all codes, in [0, 1].
        unmasked_weight: weight of a token that is not masked.
        sum_of_weights: what the loss is divided by; by default the weights of these tokens. The shares of a global
            batch have different numbers of masked tokens. Where all divide by the mean sum of weights, the mean of
            their losses, and of their gradients, is that of the whole batch.
    Returns:
        scalars `loss` in nats, and `accuracy`, the share of an image's masked tokens whose code has the largest logit,
        mean over images; 0 for an image without masked tokens.
    """
    logits = logits.float()
    token_loss = F.cross_entropy(logits.transpose(1, 2), codes, label_smoothing=label_smoothing, reduction="none")
    weights = mask + unmasked_weight * ~mask
    if sum_of_weights is None:
        sum_of_weights = weights.sum()
    hits = (logits.argmax(dim=-1) == codes) & mask
    return {
        "loss": (token_loss * weights).sum() / (sum_of_weights + 1e-8),
        "accuracy": (hits.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean(),
    }
