"""Tokens as coloured tiles, in HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..modeling_titok import TiTokModel

_MASKED = {"text": "", "style": "", "state": "masked"}

# A tile shows its code; the numbers on it and its colour say the same to a screen reader and to the eye.
TEMPLATE = """
<div class="tiles" role="list" aria-label="tokens">
{{#each value}}<button type="button" role="listitem" class="tile {{this.state}}" style="{{this.style}}"
 data-position="{{@index}}" title="token {{@index}}: {{this.text}}">{{this.text}}</button>{{/each}}
</div>
"""
STYLE = """
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(46px, 1fr)); gap: 4px; padding: 36px 4px 4px; }
.tile { aspect-ratio: 1.5; border: 2px solid transparent; border-radius: 6px; font: 12px ui-monospace, monospace;
        cursor: pointer; padding: 0; min-width: 0; overflow: hidden; }
.tile.masked { background: repeating-linear-gradient(45deg, #8884 0 5px, #8881 5px 10px); }
.tile.changed { border-color: #f97316; box-shadow: 0 0 0 1px #f97316; }
.tile:focus-visible { outline: 2px solid #f97316; }
"""
ON_LOAD = """
element.addEventListener('click', (event) => {
    const tile = event.target.closest('.tile');
    if (tile) trigger('select', {index: Number(tile.dataset.position), value: tile.textContent});
});
"""


def palette(tokenizer: TiTokModel) -> torch.Tensor:
    """
    A colour for each code, so that codes with similar vectors have similar colours: the three principal components of
    the codebook.

    Returns:
        red, green and blue, int64 in [40, 215], shape (codebook_size, 3).
    """
    codebook = tokenizer.quantizer.lookup(torch.arange(tokenizer.config.codebook_size, device=tokenizer.device))
    return _colours(codebook.detach().float().cpu())


def _colours(vectors: torch.Tensor) -> torch.Tensor:
    centred = vectors - vectors.mean(dim=0)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:3]
    # Signs of singular vectors are arbitrary: the largest entry is made positive.
    largest = directions.abs().argmax(dim=1, keepdim=True)
    directions = directions * directions.gather(1, largest).sign()
    ranks = (centred @ directions.T).argsort(dim=0).argsort(dim=0)
    return (40 + 175 * ranks / max(1, len(vectors) - 1)).round().long()


def tiles(
    codes: Sequence[int], colours: torch.Tensor, changed: Sequence[int] = (), mask_token_id: int | None = None
) -> list[dict[str, Any]]:
    """
    What [`TEMPLATE`] shows of one image.

    Args:
        codes: the codes of its tokens; `mask_token_id` for those that are not known yet.
        colours: see [`palette`].
        changed: positions of tokens to frame.
    """
    shown = []
    for position, code in enumerate(codes):
        if code == mask_token_id:
            shown.append(_MASKED)
            continue
        red, green, blue = colours[code].tolist()
        ink = "#000" if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else "#fff"
        style = f"background: rgb({red}, {green}, {blue}); color: {ink}"
        shown.append({"text": str(code), "style": style, "state": "changed" if position in changed else ""})
    return shown


def latent_tiles(latents: torch.Tensor) -> list[dict[str, Any]]:
    """As [`tiles`], of latents of a KL tokenizer, (num_latent_tokens, codebook_dim); similar ones look similar."""
    rows = _colours(latents.float().cpu()).tolist()
    return [{"text": "", "style": f"background: rgb({row[0]}, {row[1]}, {row[2]})", "state": ""} for row in rows]
