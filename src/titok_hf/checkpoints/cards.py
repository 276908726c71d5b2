"""Model cards: what a checkpoint is, how to use it, and measured numbers with the commands that measured them.

A card is made from the files of the folder (sizes, classes, sampler settings, images) and from [`CardContent`]. A card
that a person has edited is never overwritten: a generated card ends in a mark with the hash of its text, and only a
card whose text still has that hash is replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData, RepoCard

from .atomic_files import write_atomically
from .folders import Description, Kind, describe

if TYPE_CHECKING:
    from jinja2 import Template

LIBRARY = "titok-hf"
CARD_NAME = "README.md"
SAMPLES_NAME = "generated.png"
RECONSTRUCTIONS_NAME = "reconstructed.png"
CURVES_NAME = "curves.png"

# Before it is pushed, the card of a data set loads it from the current folder, so that the card does not depend on the
# name of the folder.
HERE = "."
OPENING = "from pathlib import Path\n\nfrom datasets import load_dataset\n\ndataset = load_dataset(str(Path.cwd()))"

_MARK = re.compile(
    r"""\n<!-- Written by titok_hf for "(?P<location>[^\n]*)", sha256 (?P<digest>[0-9a-f]{64})\.[^>]*-->\n*\Z"""
)
_TASKS = {
    Kind.TOKENIZER: "image-feature-extraction",
    Kind.VQGAN: "image-feature-extraction",
    Kind.GENERATOR: "unconditional-image-generation",
}


@dataclass(frozen=True)
class Measured:
    """
    One result.

    Args:
        name: of the measure, for readers ("PSNR, mean over images").
        value: the number.
        metric: its name among the Hub's metrics ("psnr", "fid", "accuracy").
        dataset: Hub id of the data set it was measured on ("zalando-datasets/fashion_mnist").
        dataset_name: the usual name of that data set.
        split: of the data set; None for images that were generated.
        unit: of the value ("dB").
        command: the command that measured it.
        published_in: arXiv number of the paper that published the number; None if it was measured here.
        task: "reconstruction" or "generation"; by default the first for images of a split, else the second.
    """

    name: str
    value: float
    metric: str
    dataset: str
    dataset_name: str
    split: str | None = None
    unit: str = ""
    command: str | None = None
    published_in: str | None = None
    task: str | None = None


@dataclass(frozen=True)
class CardContent:
    """
    The content of a card that the files of the checkpoint do not have. A section without content is not written.

    Args:
        title: heading of the card; by default the name of the folder.
        repo_id: its future repository on the Hub, for the Python on the card; by default the path of the folder,
            relative to the current one.
        introduction: what it is, as Markdown; by default a description of its configuration.
        license: identifier ("apache-2.0").
        datasets: Hub ids of the data sets it was trained on.
        base_models: Hub ids of the checkpoints that it was trained or converted from.
        results: measured and published numbers.
        source: where it comes from, as Markdown, for checkpoints that were not trained here.
        training: how it was trained, as Markdown.
        training_commands: the commands that trained it, in this order.
        recipe: the training recipe, YAML.
        limits: intended use and limits, as Markdown.
    """

    title: str | None = None
    repo_id: str | None = None
    introduction: str | None = None
    license: str | None = None
    datasets: Sequence[str] = ()
    base_models: Sequence[str] = ()
    results: Sequence[Measured] = ()
    source: str | None = None
    training: str | None = None
    training_commands: Sequence[str] = ()
    recipe: str | None = None
    limits: str | None = None


def write_model_card(
    folder: str | os.PathLike, content: CardContent | None = None, destination: str | os.PathLike | None = None
) -> Path:
    """
    Write `README.md` into a checkpoint folder, unless a person has edited the one that is there.

    `generated.png`, `reconstructed.png` and `curves.png` are shown if they are in the folder.

    Args:
        folder: a saved pipeline, tokenizer, generator or MaskGIT-VQGAN.
        content: what the files in the folder do not tell.
        destination: the folder into which this one will be moved (see `folder_atomically`); its name and its edited
            card are used then.

    Returns:
        the card's path, whether it was written or not.

    Raises:
        OSError: the folder holds no checkpoint of ours, or cannot be written.
    """
    path = Path(folder) / CARD_NAME
    destination = Path(destination or folder).resolve()
    if not is_edited(destination / CARD_NAME):
        write_atomically(path, model_card(folder, content or CardContent(), destination).encode())
    return path


def model_card(
    folder: str | os.PathLike,
    content: CardContent,
    destination: str | os.PathLike | None = None,
    has_image_processor: bool = False,
) -> str:
    """
    The text of a generated card.

    Args:
        destination: the folder into which this one will be moved, if any.
        has_image_processor: whether the repository will have the settings of an image processor, though the folder
            has none.
    """
    folder = Path(folder).resolve()
    description = describe(folder)
    if has_image_processor:
        description = replace(description, has_image_processor=True)
    if description.kind is Kind.DATA_SET:
        raise OSError(f"{folder} is a data set, whose card `titok-hf prepare` and `titok-hf pretokenize` write.")
    location = content.repo_id or location_of(destination or folder)
    title = content.title or location.split("/")[-1]
    tokenizer = description.tokenizer
    body = _template().render(
        content=content,
        title=title,
        location=in_python(location),
        images=[name for name in (SAMPLES_NAME, RECONSTRUCTIONS_NAME, CURVES_NAME) if (folder / name).is_file()],
        **{part: description.configurations.get(part) for part in ("tokenizer", "transformer", "scheduler", "vqgan")},
        weights=description.weights,
        is_pipeline=description.kind is Kind.PIPELINE,
        has_codebook=tokenizer is None or description.has_codebook,
        has_image_processor=description.has_image_processor,
        # The decoder of a tokenizer before its second stage predicts proxy codes.
        draws_pixels=tokenizer is None
        or tokenizer.get("decoder_head") != "proxy_codes"
        or tokenizer.get("pixel_decoder") is not None,
        first_class=_first_class(description),
        papers=_papers(description),
    )
    return marked(f"---\n{_metadata(description, content, title)}\n---\n\n{body.strip()}\n", location)


def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    return environment.get_template("model_card.md.jinja")


def in_python(text: str) -> str:
    """A text as a Python string, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def location_of(folder: str | os.PathLike) -> str:
    """
    How the Python on a card names a local folder: by its path in the current folder, else by its name.
    Other paths of this machine are not published.
    """
    folder, here = Path(folder).resolve(), Path.cwd().resolve()
    inside = folder != here and folder.is_relative_to(here)
    return folder.relative_to(here).as_posix() if inside else folder.name


def is_edited(path: Path) -> bool:
    """Whether there is a card that a person wrote or changed."""
    return path.is_file() and not is_generated(path.read_text(encoding="utf-8"))


def is_generated(card: str) -> bool:
    """Whether a card's text is exactly what this package wrote."""
    # Git and editors on Windows change the ends of lines, which is no edit.
    card = card.replace("\r\n", "\n")
    mark = _MARK.search(card)
    return mark is not None and _digest(card[: mark.start()]) == mark["digest"]


def readdressed(card: str, repo_id: str) -> str:
    """A generated card whose Python now loads from `repo_id`; any other card unchanged."""
    card = card.replace("\r\n", "\n")
    mark = _MARK.search(card)
    if mark is None or not is_generated(card):
        return card
    text = card[: mark.start()]
    pushed = f"from datasets import load_dataset\n\ndataset = load_dataset({in_python(repo_id)})"
    text = text.replace(OPENING, pushed)
    for function in ("from_pretrained", "load_dataset"):
        text = text.replace(f"{function}({in_python(mark['location'])}", f"{function}({in_python(repo_id)}")
    return marked(text, repo_id)


def with_new_head(card: str, generated: str) -> str:
    """
    An edited card of a data set with the metadata of a newly generated one, in which `datasets` finds the files and
    columns.
    """
    from yaml import YAMLError

    head = RepoCard(generated).data.to_dict()
    try:
        edited = RepoCard(card)
    except (
        ValueError,
        YAMLError,
    ):  # no YAML; `datasets` then finds the splits by the names of the files
        return card
    needed = {name: head[name] for name in ("configs", "dataset_info", "size_categories") if name in head}
    if needed.items() <= edited.data.to_dict().items():
        return card
    for name, value in needed.items():
        edited.data[name] = value
    return str(edited)


def card_results(card: str) -> list[dict[str, Any]]:
    """
    The numbers in a card's `model-index`: name, value, metric, data set, split and whether it is published elsewhere.

    Raises:
        ValueError: metadata that are no model index.
    """
    data = cast(ModelCardData, ModelCard(card).data)
    return [
        {
            "name": result.metric_name or result.metric_type,
            "metric": result.metric_type,
            "value": result.metric_value,
            "dataset": result.dataset_name,
            "split": result.dataset_split,
            "source": result.source_name,
        }
        for result in data.eval_results or ()
    ]


def marked(text: str, location: str) -> str:
    """A card's text with the mark at its end that `is_generated` looks for."""
    return (
        f'{text}\n<!-- Written by titok_hf for "{location}", sha256 {_digest(text)}.\n'
        "Edit this card as you like: once its text is changed, titok_hf never overwrites it. -->\n"
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.rstrip("\n").encode()).hexdigest()


def _metadata(description: Description, content: CardContent, title: str) -> str:
    """The YAML metadata, which the Hub uses for search, filters and lists."""
    tasks = {
        "reconstruction": ("image-to-image", "Reconstruction"),
        "generation": ("unconditional-image-generation", "Class-conditional generation"),
    }
    results = []
    for result in content.results:
        task = tasks[result.task or ("reconstruction" if result.split else "generation")]
        results.append(
            EvalResult(
                task_type=task[0],
                task_name=task[1],
                dataset_type=result.dataset,
                dataset_name=result.dataset_name,
                dataset_split=result.split,
                metric_type=result.metric,
                metric_name=f"{result.name} (published)" if result.published_in else result.name,
                metric_value=result.value,
                source_name=f"arXiv {result.published_in}; not measured here" if result.published_in else None,
                source_url=f"https://arxiv.org/abs/{result.published_in}" if result.published_in else None,
            )
        )
    return ModelCardData(
        license=content.license,
        library_name=LIBRARY,
        pipeline_tag=_pipeline_tag(description),
        tags=_tags(description),
        datasets=list(content.datasets) or None,
        base_model=list(content.base_models) or None,
        arxiv=list(_papers(description)),
        model_name=title if results else None,
        eval_results=results or None,
    ).to_yaml()


def _pipeline_tag(description: Description) -> str:
    """The most similar task of the Hub, which has none for class-conditional generation."""
    if description.kind is Kind.PIPELINE:
        return _TASKS[Kind.GENERATOR if description.transformer else Kind.TOKENIZER]
    return _TASKS[description.kind]


def _tags(description: Description) -> list[str]:
    """Words to search for on the Hub."""
    words = ["titok"]
    if description.tokenizer or description.kind is Kind.VQGAN:
        words.append("image-tokenizer")
    if description.transformer or description.kind is Kind.VQGAN:
        words.append("maskgit")
    if description.transformer:
        words.append("class-conditional")
    diffusers = description.kind in (Kind.PIPELINE, Kind.GENERATOR)
    transformers = description.kind is not Kind.GENERATOR
    return words + ["diffusers"] * diffusers + ["transformers"] * transformers


def _papers(description: Description) -> dict[str, str]:
    """arXiv number -> title of the papers of the checkpoint's architecture."""
    titok = {"2406.07550": "An Image is Worth 32 Tokens for Reconstruction and Generation"}
    single_stage = {
        "2501.07730": "Democratizing Text-to-Image Masked Generative Models with Compact Text-Aware One-Dimensional "
        "Tokens"
    }
    maskgit = {"2202.04200": "MaskGIT: Masked Generative Image Transformer"}
    if description.kind is Kind.VQGAN:
        return maskgit
    is_single_stage = (description.tokenizer or {}).get("decoder_head") == "pixels"
    return titok | (single_stage if is_single_stage else {}) | (maskgit if description.transformer else {})


def _first_class(description: Description) -> str:
    """The first class as Python: its shortest name that is unique among the classes, else its number."""
    from ..class_names import ClassNames  # which imports torch

    if description.transformer is None:
        return "0"
    classes = ClassNames(description.classes, description.transformer["num_classes"])
    for number, text in list(description.classes.items())[:1]:
        for name in (text.split(",")[0].strip(), text):
            try:
                if classes.label_ids(name) == [number]:
                    return in_python(name)
            except ValueError:  # it names several
                continue
        return str(number)
    return "0"
