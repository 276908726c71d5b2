"""The card of a data set that this package makes: the README.md by which `load_dataset(folder)` opens it."""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import DatasetInfo, Features, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from .. import __version__
from ..checkpoints.atomic_files import write_atomically
from ..checkpoints.cards import CARD_NAME, HERE, OPENING, is_generated, marked, with_new_head
from ..checkpoints.locations import is_hub_id
from .report import Report
from .shards import DATA_FOLDER


def library_versions(*names: str) -> dict[str, str]:
    """Versions of titok_hf and of other libraries that a result depends on."""
    return {"titok_hf": __version__} | {name: importlib.metadata.version(name) for name in names}


@dataclass(frozen=True)
class CardText:
    """
    The part of a card that depends on the kind of data set.

    Args:
        title: of the card.
        introduction: what a row holds, as Markdown.
        code: Python after `dataset = load_dataset(...)`; `{split}` is replaced by the name of a split.
    """

    title: str
    introduction: str
    code: str


def write_card(
    folder: Path, text: CardText, features: Features, reports: dict[str, Report], settings: dict[str, Any]
) -> None:
    """
    Writes `README.md`: `datasets` reads its YAML head, and its text says how the data were made. If a person has
    edited the card, the text is kept and only the head is updated.

    Args:
        features: the columns, the same in all splits.
        reports: split -> its report.
        settings: name -> value, the settings of the run.
    """
    facts = {name: value for name, value in settings.items() if name not in ("kind", "label_names", "limit")}
    source = str(facts.get("source", ""))
    head = DatasetCardData(
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{DATA_FOLDER}/{split}-*.parquet"} for split in reports],
            }
        ],
        pretty_name=text.title,
        source_datasets=[f"extended|{source}"] if is_hub_id(source) else None,
        size_categories=[_size_category(sum(report.num_rows for report in reports.values()))],
        task_categories=["unconditional-image-generation"] + ["image-classification"] * ("label" in features),
        tags=["titok"],
    )
    splits = SplitDict()
    for split, report in reports.items():
        splits.add(SplitInfo(split, num_bytes=report.num_bytes, num_examples=report.num_rows))
    total = sum(report.num_bytes for report in reports.values())
    info = DatasetInfo(features=features, splits=splits, download_size=total, dataset_size=total)
    DatasetInfosDict({"default": info}).to_dataset_card_data(head)
    code = OPENING + text.code.format(split=next(iter(reports)))
    content = f"---\n{head.to_yaml()}\n---\n\n# {text.title}\n\n{text.introduction}\n\n```python\n{code}\n```\n\n"
    content += f"{_split_table(reports)}\n\n## How it was made\n\n{_fact_table(facts)}\n"
    card = marked(content, HERE)
    path = folder / CARD_NAME
    old = path.read_text(encoding="utf-8") if path.is_file() else card
    write_atomically(path, (card if is_generated(old) else with_new_head(old, card)).encode())


def _size_category(num_rows: int) -> str:
    """The Hub's name for a number of rows."""
    bounds = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}
    bounds |= {10**8: "10M<n<100M", 10**9: "100M<n<1B"}
    return next((name for bound, name in bounds.items() if num_rows < bound), "1B<n<10B")


def _split_table(reports: dict[str, Report]) -> str:
    lines = ["| split | images read | left out | rows | MB |", "| --- | --- | --- | --- | --- |"]
    for split, report in reports.items():
        counts = (
            f"{report.num_images:,} | {len(report.skipped):,} | {report.num_rows:,} | {report.num_bytes / 1e6:,.1f}"
        )
        lines.append(f"| {split} | {counts} |")
    return "\n".join([*lines, "", "Images that were left out, and why: `report-<split>.json`."])


def _fact_table(facts: dict[str, Any]) -> str:
    lines = ["| | |", "| --- | --- |"]
    for name, value in facts.items():
        if isinstance(value, dict):
            value = [f"{key} {item}" for key, item in value.items()]
        value = ", ".join(map(str, value)) if isinstance(value, list) else value
        lines.append(f"| {name.replace('_', ' ')} | {value} |")
    return "\n".join(lines)
