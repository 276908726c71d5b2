"""`titok-hf info`: what a checkpoint is, by its configuration files, its card and the headers of its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from .console import answer, messages
from .models import check_model, model_location, model_name
from .options import AsJson, OptionalModel, Revision

if TYPE_CHECKING:
    from titok_hf.checkpoints.folders import Description, Weights

# The fields that differ between models; --json prints all.
_SHOWN = {
    "tokenizer": (
        "image_size patch_size num_latent_tokens tail_drop quantizer codebook_size codebook_dim decoder_head "
        "encoder_hidden_size encoder_num_hidden_layers decoder_hidden_size decoder_num_hidden_layers"
    ).split(),
    "transformer": "architecture num_classes hidden_size num_hidden_layers num_attention_heads".split(),
    "vqgan": "base_channels channel_multipliers codebook_size codebook_dim".split(),
}
_TITLES = {"tokenizer": "tokenizer", "vqgan": "MaskGIT-VQGAN", "transformer": "generator", "scheduler": "sampler"}


def info(
    model: OptionalModel = None,
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """
    Show what a model is: sizes, codes, classes, sampler settings, and the numbers on its card.

    Of a model on the Hub only the small files are downloaded, and the headers of its weights.

    **Examples**

    `titok-hf info`

    `titok-hf info user/titok --json`
    """
    check_model(model, revision, needs_folder=True)
    with messages.status(f"reading {escape(model_name(model))}"):
        from titok_hf.checkpoints.cards import card_results

        description, card = _describe(model_location(model), revision)
        results = card_results(card) if card else []
        variant = _published_variant(description.tokenizer)
    table = Table("part", "what", "value", title=escape(model_name(model)))
    _add_parts(table, description, variant)
    _add_results(table, results)
    answer(_values(description, variant, results), as_json, table)


def _describe(location: str, revision: str | None) -> tuple[Description, str | None]:
    """The description of a checkpoint, and the text of its card."""
    from titok_hf.checkpoints.cards import CARD_NAME
    from titok_hf.checkpoints.folders import describe
    from titok_hf.checkpoints.pull import describe_remote

    folder = Path(location)
    if not folder.is_dir():
        return describe_remote(location, revision)
    card = folder / CARD_NAME
    return describe(folder), card.read_text(encoding="utf-8") if card.is_file() else None


def _published_variant(tokenizer: dict[str, Any] | None) -> str | None:
    """The name of a tokenizer's architecture, if it is one of the published ones."""
    if tokenizer is None:
        return None
    from titok_hf.configuration_titok import TITOK_VARIANTS, TiTokConfig

    fields = (
        "image_size num_latent_tokens quantizer codebook_size codebook_dim decoder_head legacy_latent_layout".split()
    )
    fields += [f"{side}_{name}" for side in ("encoder", "decoder") for name in ("hidden_size", "num_hidden_layers")]
    for name in TITOK_VARIANTS:
        config = TiTokConfig.from_variant(name)
        # Without a codebook, its size has no meaning.
        compared = [field for field in fields if config.has_codebook or not field.startswith("codebook_size")]
        same_lengths = config.tail_drop == tokenizer.get("tail_drop", False)
        if same_lengths and all(getattr(config, field) == tokenizer.get(field) for field in compared):
            return name
    return None


def _add_parts(table: Table, description: Description, variant: str | None) -> None:
    table.add_row("", "kind", description.kind.value, end_section=True)
    for part, title in _TITLES.items():
        configuration = description.configurations.get(part)
        if configuration is None:
            if part != "vqgan" and description.kind.value == "pipeline":
                table.add_row(title, "-", "none", end_section=True)
            continue
        shown = _SHOWN.get(part, [name for name in configuration if not name.startswith("_")])
        rows = [(name, configuration[name]) for name in shown if name in configuration]
        if part == "tokenizer":
            rows.insert(0, ("variant", variant or "none of the published ones"))
        if part in description.weights:
            rows += _weight_rows(description.weights[part])
        for index, (name, value) in enumerate(rows):
            table.add_row(title if index == 0 else "", name, escape(str(value)), end_section=index == len(rows) - 1)
    if description.classes:
        names = [name.split(",")[0] for name in description.classes.values()]
        shown_names = ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
        table.add_row("classes", str(len(names)), escape(shown_names), end_section=True)


def _weight_rows(weights: Weights) -> list[tuple[str, str]]:
    rows = [("parameters", f"{weights.num_parameters:,}"), ("file size", f"{weights.num_bytes / 1e6:,.1f} MB")]
    variants = [name for name in weights.variants if name]
    return rows + ([("variants of the weights", ", ".join(variants))] if variants else [])


def _add_results(table: Table, results: list[dict[str, Any]]) -> None:
    for index, result in enumerate(results):
        data = " ".join(filter(None, (result["dataset"], result["split"])))
        source = f" ({result['source']})" if result["source"] else ""
        value = f"{result['value']} on {data}{source}"
        table.add_row("on the card" if index == 0 else "", escape(result["name"]), escape(value))


def _values(description: Description, variant: str | None, results: list[dict[str, Any]]) -> dict[str, Any]:
    """The answer for --json."""
    weights = {
        part: {"num_parameters": found.num_parameters, "bytes": found.num_bytes, "variants": found.variants}
        for part, found in description.weights.items()
    }
    return {
        "kind": description.kind.value,
        "saved_by": description.saved_by,
        "variant": variant,
        "classes": description.classes or None,
        "weights": weights,
        **{part: description.configurations.get(part) for part in _TITLES},
        "results": results,
    }
