"""Options that replace the sampler or the guidance of a model for one command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .models import check_model, file_of, model_name
from .options import with_bundled

if TYPE_CHECKING:
    from titok_hf.modeling_maskgit import MaskGitTransformer1DModel
    from titok_hf.pipeline_titok import TiTokPipeline

SamplerName = Literal["confidence", "moment", "ordered", "entropy-bounded", "remdm"]
Sampler = Annotated[
    SamplerName | None,
    typer.Option("--sampler", help="How codes are drawn. By default the sampler saved with the model."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting of the sampler or of guidance, such as **remask=rescale**; repeat for several.",
        show_default=False,
    ),
]
GuidingModel = Annotated[
    str | None,
    typer.Option(
        "--guiding-model",
        help="A folder or Hub id with a weaker generator, for autoguidance.",
        callback=with_bundled,
        show_default=False,
    ),
]


def change_sampler(pipe: TiTokPipeline, sampler: str | None, given: list[str] | None, autoguided: bool) -> None:
    """
    Give a pipeline another sampler or other settings.

    Args:
        sampler: name of the sampler; None keeps it.
        given: settings of the scheduler, each `NAME=VALUE` with a value as in JSON, or a text.
        autoguided: whether there is a weaker generator, so that guidance is autoguidance.
    Raises:
        ValueError: a setting that does not exist, that another sampler uses, or with an impossible value.
    """
    from titok_hf.sampler_settings import SETTINGS_OF
    from titok_hf.scheduling_maskgit import MaskGitScheduler

    settings: dict[str, Any] = {} if sampler is None else {"sampler": sampler}
    if autoguided:
        settings["guidance"] = "autoguidance"
    known = [name for name in pipe.scheduler.config if name[0] != "_" and name != "mask_token_id"]
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise ValueError(f"--set {text} names no setting. Write NAME=VALUE with one of {known}.")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    used = settings.get("sampler", pipe.scheduler.config.sampler)
    for name in settings:
        users = [user for user, names in SETTINGS_OF.items() if name in names]
        if users and used not in users:
            raise ValueError(f"--set {name} is for the sampler {' or '.join(users)}, and the sampler is {used}.")
    pipe.scheduler = MaskGitScheduler.from_config(pipe.scheduler.config, **settings)
    if pipe.scheduler.config.guidance == "autoguidance" and not autoguided:
        raise ValueError("guidance is autoguidance, which needs a weaker generator. Name one with --guiding-model.")


def load_guiding_generator(model: str | None, pipe: TiTokPipeline) -> MaskGitTransformer1DModel | None:
    """The weaker generator of `--guiding-model`, on the device of the pipeline; OSError if there is none."""
    if model is None:
        return None
    from titok_hf.modeling_maskgit import MaskGitTransformer1DModel

    check_model(model)
    if file_of(model, "model_index.json") is not None:
        generator = MaskGitTransformer1DModel.from_pretrained(model, subfolder="transformer")
    elif file_of(model, "config.json") is not None:
        generator = MaskGitTransformer1DModel.from_pretrained(model)
    else:
        raise OSError(f"{model_name(model)} has neither a pipeline nor a generator. Name a folder that has one.")
    return generator.eval().to(pipe.device, pipe.transformer.dtype)
