"""The masked-token objective of the generator (MaskGIT, arXiv 2202.04200, section 3.1)."""

import torch
import torch.nn.functional as F

from titok_hf.scheduling_maskgit import mask_ratio


def mask_from(progress: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """
    Which tokens of each example are hidden: a share acos(progress) / (pi / 2) of them, at least one.

    Args:
        progress: uniform draws in [0, 1), float, shape (batch,).
        order: uniform draws that choose the tokens, float, shape (batch, num_tokens).
    Returns:
        bool, shape (batch, num_tokens), True where hidden.
    """
    share = mask_ratio(progress, "arccos").clamp(1e-6, 1)
    num_hidden = (order.shape[1] * share).round().clamp(min=1)
    return order.argsort(dim=1) < num_hidden[:, None]


def random_mask(codes: torch.Tensor) -> torch.Tensor:
    """`mask_from` with fresh draws: which tokens of `codes` to hide, bool, of its shape (batch, num_tokens)."""
    return mask_from(torch.rand(len(codes), device=codes.device), torch.rand(codes.shape, device=codes.device))


def masked_token_loss(
    logits: torch.Tensor, codes: torch.Tensor, mask: torch.Tensor, label_smoothing: float, unmasked_weight: float
) -> dict[str, torch.Tensor]:
    """
    Cross-entropy of the true codes; hidden tokens weigh 1, visible ones `unmasked_weight`.

    Args:
        logits: float, shape (batch, num_tokens, codebook_size).
        codes: the true ones, int64, shape (batch, num_tokens).
        mask: True where the model saw a mask token, bool, shape (batch, num_tokens).
        label_smoothing: share of the target that is spread over all codes, in [0, 1].
    Returns:
        scalars `loss` in nats, and `accuracy`, the share of hidden tokens whose code has the largest logit.
    """
    logits = logits.float()
    token_loss = F.cross_entropy(logits.transpose(1, 2), codes, label_smoothing=label_smoothing, reduction="none")
    weights = mask + unmasked_weight * ~mask
    hits = (logits.argmax(dim=-1) == codes) & mask
    return {
        "loss": (token_loss * weights).sum() / (weights.sum() + 1e-8),
        "accuracy": hits.sum() / mask.sum(),
    }


__all__ = ["mask_from", "masked_token_loss", "random_mask"]
