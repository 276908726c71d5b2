"""The released checkpoints, with their published results (arXiv 2406.07550, 2501.07730, 2501.10064)."""

from dataclasses import dataclass

TITOK_PAPER, SINGLE_STAGE_PAPER, MASKGIT_PAPER = "2406.07550", "2501.07730", "2202.04200"
ONE_D_PIECE_PAPER = "2501.10064"
"""arXiv numbers."""


@dataclass(frozen=True)
class Released:
    """
    A released tokenizer or class-conditional generator, for ImageNet at 256 x 256.

    Args:
        repository: id of its Hub repository.
        file: name of the same weights as a bare pickle; None where there is only the repository.
        fid: published FID of reconstructions of the 50,000 validation images, or of 50,000 generated images.
        inception_score: of 50,000 generated images; None where none was published.
        paper: arXiv number of the paper that published it.
    """

    repository: str
    file: str | None
    fid: float
    inception_score: float | None = None
    paper: str = TITOK_PAPER


def _tokenizer(name: str, fid: float, file: str = "tokenizer_titok_{}.bin") -> Released:
    paper = SINGLE_STAGE_PAPER if name.endswith(("vq8k", "vae_c16")) else TITOK_PAPER
    return Released(f"yucornetto/tokenizer_titok_{name}_imagenet", file.format(name), fid, paper=paper)


def _one_d_piece(size: str, fid: float) -> Released:
    return Released(f"turing-motors/One-D-Piece-{size}-256", None, fid, paper=ONE_D_PIECE_PAPER)


def _generator(name: str, fid: float, inception_score: float | None) -> Released:
    return Released(f"yucornetto/generator_titok_{name}_imagenet", f"generator_titok_{name}.bin", fid, inception_score)


RELEASED_TOKENIZERS = {
    "l32": _tokenizer("l32", 2.21),
    "b64": _tokenizer("b64", 1.70),
    "s128": _tokenizer("s128", 1.71),
    "bl64_vq8k": _tokenizer("bl64_vq8k", 2.06),
    "bl128_vq8k": _tokenizer("bl128_vq8k", 1.49),
    "sl256_vq8k": _tokenizer("sl256_vq8k", 1.03),
    "ll32_vae_c16": _tokenizer("ll32_vae_c16", 1.61, "titok_{}.bin"),
    "bl64_vae_c16": _tokenizer("bl64_vae_c16", 1.25, "titok_{}.bin"),
    "bl128_vae_c16": _tokenizer("bl128_vae_c16", 0.84, "titok_{}.bin"),
    "one_d_piece_s256": _one_d_piece("S", 1.48),
    "one_d_piece_b256": _one_d_piece("B", 1.11),
    "one_d_piece_l256": _one_d_piece("L", 1.08),
}
"""The nine tokenizers of the TiTok authors and the three of One-D-Piece, by variant."""

RELEASED_GENERATORS = {
    "l32": _generator("l32", 2.77, 194.0),
    "b64": _generator("b64", 2.48, None),
    "s128": _generator("s128", 1.97, 281.8),
}
"""The three generators, each named after its tokenizer."""

STAGE_1_SUFFIX = "_stage1"
"""`"l32_stage1"` is the tokenizer before its second training stage, without the pixel decoder."""

RELEASED_VQGANS = {
    "imagenet256": Released("fun-research/TiTok", "maskgit-vqgan-imagenet-f16-256.bin", 2.28, paper=MASKGIT_PAPER)
}
"""The MaskGIT-VQGAN, teacher of the two-stage tokenizers (MaskGIT, arXiv 2202.04200)."""
