"""The web page: one function a tab."""

from __future__ import annotations

import functools
import inspect
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from PIL import Image, ImageChops

from ..bundled import example_images
from ..samplers import SAMPLERS
from . import snippets
from .actions import MAX_IMAGES, MAX_STEPS, Sampling, ServedModel, ServedModels, Step
from .tiles import ON_LOAD, STYLE, TEMPLATE
from .uploads import MAX_FILE_SIZE, drawing_upload, image_upload

# Waiting visitors; the next ones read that the page is busy.
_MAX_WAITING = 32
# Files of visitors are deleted when they are older than this many seconds; looked for as often.
_KEEP_FILES = 1800
# Two cores compute one call at a time best: all of them share this limit.
_ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "show_progress": "minimal"}

_SYSTEM_FONTS = ["system-ui", "sans-serif"]
_CSS = """
.small-images img { image-rendering: pixelated; object-fit: contain; width: 100%; height: 100%; }
.gradio-container { max-width: min(1100px, 100vw) !important; margin: auto; }
@media (max-width: 640px) { .gradio-container .column { min-width: 0 !important; flex-basis: 100%; } }
footer { opacity: 0.6; }
"""
_INTRODUCTION = """
# TiTok: an image is worth {tokens} tokens
{name} turns an image of {size} x {size} pixels into {tokens} {kind}, and back. {about}
"""
_OF_FASHION = (
    "The model that comes with titok-hf learnt from small grey images of clothes (Fashion-MNIST). It sees clothes in "
    "every image."
)


def build_page(models: ServedModels) -> gr.Blocks:
    """
    The page of some models; see [`serve`] to start it.

    Args:
        models: the first one is loaded now, the others when a visitor picks them.
    """
    first = models.get(0)
    with gr.Blocks(
        title="TiTok", analytics_enabled=False, delete_cache=(_KEEP_FILES, _KEEP_FILES), fill_width=False
    ) as page:
        introduction = gr.Markdown(_introduce(first))
        names = [(model_title(name), index) for index, name in enumerate(models.names)]
        model = gr.Dropdown(names, value=0, label="Model", visible=len(names) > 1, interactive=True)
        with gr.Tabs():
            with gr.Tab("Tokens"):
                _tokens_tab(models, model)
            if first.can_generate or len(names) > 1:
                with gr.Tab("Generate"):
                    labels = [_generate_tab(models, model, first)]
                with gr.Tab("Variations"):
                    labels.append(_variations_tab(models, model, first))
            else:
                labels = []
            with gr.Tab("Inpaint"):
                labels.append(_inpaint_tab(models, model, first))
            with gr.Tab("Interpolate"):
                _interpolate_tab(models, model)

        def pick(index: int) -> list[Any]:
            chosen = models.get(index)
            choices = chosen.class_names if chosen.can_generate else []
            return [_introduce(chosen), *[gr.update(choices=choices, value=None) for _ in labels]]

        _on(model.change, pick, [model], [introduction, *labels])
    return page.queue(max_size=_MAX_WAITING, api_open=False)


def serve(models: ServedModels, host: str = "127.0.0.1", port: int | None = None, **launch: Any) -> gr.Blocks:
    """
    Start the page, and wait until the program is stopped unless `prevent_thread_lock` says otherwise.

    Args:
        models: see [`build_page`].
        host: the address to listen at: loopback, unless other machines are meant to reach the page ("0.0.0.0").
        port: by default the first free one from 7860 on.
        launch: further arguments of Gradio's `Blocks.launch`, such as `prevent_thread_lock`.

    Raises:
        OSError: the host is not an address of this machine, or the port is taken.
    """
    _check_address(host, port)
    page = build_page(models)
    theme = gr.themes.Soft(primary_hue="orange", font=_SYSTEM_FONTS, font_mono=["ui-monospace", "monospace"])
    page.launch(
        server_name=host, server_port=port, theme=theme, css=_CSS, max_file_size=MAX_FILE_SIZE, share=False,
        ssr_mode=False, footer_links=[], **launch,
    )  # fmt: skip
    return page


def _check_address(host: str, port: int | None) -> None:
    """OSError if nothing can listen there; Gradio would try for ever."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port or 0), family=family).close()
    except OSError as error:
        at = host if port is None else f"{host}, port {port}"
        raise OSError(f"The page cannot listen at {at} ({error.strerror or error}). Choose another one.") from error


def model_title(name: str | None) -> str:
    """How the page calls a model; None is the bundled one."""
    return "The bundled model" if name is None else name.rstrip("/").rpartition("/")[2]


def _introduce(model: ServedModel) -> str:
    config = model.pipe.tokenizer.config
    return _INTRODUCTION.format(
        name=model_title(model.name),
        size=config.image_size,
        tokens=config.num_latent_tokens,
        kind=f"codes out of {config.codebook_size:,}"
        if model.has_codes
        else f"vectors of {config.codebook_dim} numbers",
        about=_OF_FASHION if model.name is None else "",
    )


def _on(
    listen: Callable[..., Any], function: Callable[..., Any], inputs: list[Any], outputs: list[Any], **settings: Any
) -> None:
    """Listen to an event. Errors that a visitor can cause are shown as sentences; calls wait for one another."""
    listen(_with_sentences(function), inputs, outputs, api_visibility="private", **_ONE_AT_A_TIME, **settings)


def _with_sentences(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with errors of inputs as messages of the page instead of a bare "Error"."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def steps(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with _sentences():
                yield from function(*args, **kwargs)

        return steps

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _sentences():
            return function(*args, **kwargs)

    return call


@contextmanager
def _sentences() -> Iterator[None]:
    try:
        yield
    except gr.Error:
        raise
    except (ValueError, FloatingPointError, NotImplementedError, OSError) as error:
        raise gr.Error(str(error), print_exception=False) from error


def _no(message: str) -> gr.Error:
    """An error that a visitor made, which the log of the server need not show."""
    return gr.Error(message, print_exception=False)


def _tiles(label: str) -> gr.HTML:
    return gr.HTML(
        [],
        html_template=TEMPLATE,
        css_template=STYLE,
        js_on_load=ON_LOAD,
        label=label,
        show_label=True,
        container=True,
    )


def _python(text: str = "") -> gr.Code:
    with gr.Accordion("The same in Python", open=False):
        return gr.Code(text, language="python", show_label=False, interactive=False)


def _small_image(label: str, elem_id: str | None = None) -> gr.Image:
    return gr.Image(
        label=label,
        interactive=False,
        format="png",
        elem_id=elem_id,
        elem_classes="small-images",
        height=240,
        buttons=["download"],
    )


def _gallery(title: str, columns: int = 4) -> gr.Gallery:
    gr.Markdown(title)
    return gr.Gallery(
        show_label=False,
        columns=columns,
        object_fit="contain",
        height="auto",
        format="png",
        elem_classes="small-images",
    )


def _class_menu(model: ServedModel, label: str, chosen: int | None = 0) -> gr.Dropdown:
    choices = model.class_names if model.can_generate else []
    return gr.Dropdown(choices, value=chosen if choices else None, label=label, interactive=True)


def _sampling(model: ServedModel) -> list[Any]:
    """The inputs of [`Sampling`], which start at the scheduler's values."""
    config = model.pipe.scheduler.config if model.can_generate else {}
    with gr.Accordion("Sampler settings", open=False):
        return [
            gr.Number(0, label="Seed", precision=0, minimum=0),
            gr.Slider(1, MAX_STEPS, value=config.get("num_inference_steps", 8), step=1, label="Steps"),
            gr.Slider(1, 12, value=config.get("guidance_scale", 1.0), step=0.1, label="Guidance scale (1 is none)"),
            gr.Slider(0, 15, value=config.get("temperature", 1.0), step=0.05, label="Temperature"),
            gr.Dropdown(list(SAMPLERS), value=config.get("sampler", "confidence"), label="Sampler"),
        ]


def _needed(image: Any, what: str = "an image") -> Any:
    if image is None:
        raise _no(f"There is no image yet. Upload, paste or draw {what} first.")
    return image


def _check_class(label: int | None) -> int:
    if label is None:
        raise _no("No class is chosen. Pick one from the menu.")
    return label


def _tokens_tab(models: ServedModels, model: gr.Dropdown) -> None:
    original, codes = gr.State([]), gr.State([])
    with gr.Row():
        with gr.Column(min_width=280):
            gr.Markdown("Upload, paste or draw an image, or take a test image.")
            image = drawing_upload(gr.Brush(), layers=False, elem_id="tokens-image")
            run = gr.Button("Show its tokens", variant="primary")
            gr.Examples(_example_drawings(), inputs=[image], label="Test images")
        with gr.Column(min_width=280):
            with gr.Row():
                model_input, reconstruction = _small_image("What the model sees"), _small_image("Reconstruction")
            psnr = gr.Markdown(elem_id="psnr")
            shown = _tiles("Tokens: click one to change it")
            with gr.Row():
                position = gr.Number(0, label="Token", precision=0, minimum=0, min_width=90)
                code = gr.Slider(0, 1, value=0, step=1, label="Its code", interactive=True, elem_id="code")
            reset = gr.Button("Undo all changes", size="sm")
    python = _python(snippets.tokenize(models.names[0], {}))
    everything = [model_input, reconstruction, psnr, shown, original, codes, code, python]

    events = _TokenEvents(models)
    _on(run.click, events.tokenize, [model, image], everything)
    shown.select(
        events.select, [codes], [position, code], api_visibility="private", show_progress="hidden", queue=False
    )
    after_change = [reconstruction, shown, codes, python]
    # While a visitor drags the slider, only the last code is decoded.
    _on(code.input, events.change, [model, position, code, codes, original], after_change, trigger_mode="always_last")
    _on(reset.click, events.undo, [model, original], after_change)


class _TokenEvents:
    """What the first tab does. `now` are the codes that are shown, `before` those of the image."""

    def __init__(self, models: ServedModels) -> None:
        self.models = models

    def tokenize(self, index: int, drawing: dict[str, Any] | None) -> list[Any]:
        model = self.models.get(index)
        found = model.tokenize(_needed(drawing)["composite"])
        highest = model.pipe.tokenizer.config.codebook_size - 1 if model.has_codes else 1
        slider = gr.update(maximum=highest, value=found.codes[0] if found.codes else 0, interactive=model.has_codes)
        text = f"**{found.psnr:.2f} dB** PSNR between the two images"
        images = [found.model_input, found.reconstruction]
        return [*images, text, found.tiles, found.codes, found.codes, slider, snippets.tokenize(model.name, {})]

    def select(self, event: gr.EventData, now: list[int]) -> list[Any]:
        position = int(event.index)
        return [position, now[position] if position < len(now) else 0]

    def change(self, index: int, position: float, code: float, now: list[int], before: list[int]) -> list[Any]:
        changed = list(now)
        if now and not 0 <= int(position) < len(now):
            raise _no(f"There is no token {int(position)}. Tokens are numbered from 0 to {len(now) - 1}.")
        if now:
            changed[int(position)] = int(code)
        return self._decoded(index, changed, before)

    def undo(self, index: int, before: list[int]) -> list[Any]:
        return self._decoded(index, before, before)

    def _decoded(self, index: int, now: list[int], before: list[int]) -> list[Any]:
        if not before:
            raise _no("There are no tokens yet. Press the button first.")
        model = self.models.get(index)
        image, framed = model.decode(now, before)
        changes = {position: code for position, code in enumerate(now) if code != before[position]}
        return [image, framed, now, snippets.tokenize(model.name, changes)]


def _generate_tab(models: ServedModels, model: gr.Dropdown, first: ServedModel) -> gr.Dropdown:
    with gr.Row():
        with gr.Column(min_width=280):
            label = _class_menu(first, "Class")
            number = gr.Slider(1, MAX_IMAGES, value=4, step=1, label="Images")
            settings = _sampling(first)
            with gr.Row():
                run = gr.Button("Generate", variant="primary")
                stop = gr.Button("Stop")
        with gr.Column(min_width=280):
            progress = gr.Markdown(
                "Press the button and watch the tokens of the first image appear.", elem_id="progress"
            )
            images = _gallery("Images")
            shown = _tiles("Tokens of the first image")
    python = _python()

    def generate(index: int, chosen_label: int | None, num: float, *values: Any) -> Iterator[list[Any]]:
        chosen, sampling = models.get(index), Sampling(*values)
        text = snippets.generate(chosen.name, _check_class(chosen_label), int(num), sampling)
        yield from _shown_steps(chosen.generate(_check_class(chosen_label), int(num), sampling), text)

    events = [progress, images, shown, python]
    running = run.click(
        _with_sentences(generate),
        [model, label, number, *settings],
        events,
        api_visibility="private",
        **_ONE_AT_A_TIME,
    )
    stop.click(None, cancels=[running])
    return label


def _shown_steps(steps: Iterator[Step], python: str) -> Iterator[list[Any]]:
    """What the page shows of each step: a line of text, images, tiles, and Python."""
    for step in steps:
        images = gr.skip() if step.images is None else step.images
        yield [f"Step {step.number} of {step.of}", images, step.tiles, python]


def _variations_tab(models: ServedModels, model: gr.Dropdown, first: ServedModel) -> gr.Dropdown:
    with gr.Row():
        with gr.Column(min_width=280):
            image = image_upload("Upload or paste an image", height=280, elem_id="varied-image")
            gr.Examples([[str(path)] for path in _some_examples()], inputs=[image], label="Test images")
            label = _class_menu(first, "Class: its own, or another one to change it")
            strength = gr.Slider(
                0.05, 1, value=0.4, step=0.05, label="Strength: share of the tokens that is resampled"
            )
            number = gr.Slider(1, MAX_IMAGES, value=4, step=1, label="Images")
            settings = _sampling(first)
            run = gr.Button("Vary", variant="primary")
        with gr.Column(min_width=280):
            progress = gr.Markdown()
            images = _gallery("Variations")
            shown = _tiles("Tokens of the first image")
    python = _python()

    def vary(
        index: int, image: Image.Image | None, wanted: int | None, share: float, num: float, *values: Any
    ) -> Iterator[list[Any]]:
        chosen, sampling = models.get(index), Sampling(*values)
        text = snippets.vary(chosen.name, _check_class(wanted), share, int(num), sampling)
        steps = chosen.vary(_needed(image), _check_class(wanted), share, int(num), sampling)
        yield from _shown_steps(steps, text)

    _on(run.click, vary, [model, image, label, strength, number, *settings], [progress, images, shown, python])
    return label


def _inpaint_tab(models: ServedModels, model: gr.Dropdown, first: ServedModel) -> gr.Dropdown:
    with gr.Row():
        with gr.Column(min_width=280):
            gr.Markdown("Upload or paste an image, and brush over the part that is to be filled.")
            width = max(2, first.pipe.tokenizer.config.image_size // 10)  # in pixels of the image
            brush = gr.Brush(colors=["#f97316"], color_mode="fixed", default_size=width)
            image = drawing_upload(brush, elem_id="inpaint-image")
            label = _class_menu(first, "Class (empty: without the generator)", chosen=None)
            settings = _sampling(first)
            run = gr.Button("Fill", variant="primary")
            gr.Examples(_example_drawings(), inputs=[image], label="Test images")
        with gr.Column(min_width=280):
            result = _small_image("Filled", elem_id="filled")
    python = _python()

    def inpaint(index: int, drawing: dict[str, Any] | None, wanted: int | None, *values: Any) -> list[Any]:
        chosen, sampling = models.get(index), Sampling(*values)
        mask = _brushed(_needed(drawing))
        filled = chosen.inpaint(drawing["background"], mask, wanted, sampling)[0]  # type: ignore[index]
        return [filled, snippets.inpaint(chosen.name, wanted, sampling)]

    _on(run.click, inpaint, [model, image, label, *settings], [result, python])
    return label


def _brushed(drawing: dict[str, Any]) -> Image.Image:
    """White where a visitor has brushed, in the size of the image."""
    mask = Image.new("L", drawing["background"].size)
    for layer in drawing["layers"]:
        opaque = layer.convert("RGBA").getchannel("A").point(lambda alpha: 255 * (alpha > 0))
        mask = ImageChops.lighter(mask, opaque.resize(mask.size, Image.Resampling.NEAREST))
    if mask.getbbox() is None:
        raise _no("Nothing is brushed. Brush over the part of the image that is to be filled.")
    return mask


def _interpolate_tab(models: ServedModels, model: gr.Dropdown) -> None:
    with gr.Row():
        first = image_upload("First image", height=240, elem_id="first-image")
        second = image_upload("Second image", height=240, elem_id="second-image")
    examples = _some_examples()
    gr.Examples([[str(a), str(b)] for a, b in zip(examples, examples[1:], strict=False)], inputs=[first, second])
    number = gr.Slider(3, 2 * MAX_IMAGES, value=8, step=1, label="Images")
    run = gr.Button("Interpolate", variant="primary")
    images = _gallery("From the first to the second", columns=8)
    python = _python(snippets.interpolate(models.names[0], 8))

    def interpolate(index: int, start: Any, end: Any, num: float) -> list[Any]:
        chosen = models.get(index)
        between = chosen.interpolate(_needed(start, "the first one"), _needed(end, "the second one"), int(num))
        return [between, snippets.interpolate(chosen.name, int(num))]

    _on(run.click, interpolate, [model, first, second, number], [images, python])


def _example_drawings() -> list[list[dict[str, Any]]]:
    return [[{"background": path, "layers": [], "composite": path}] for path in _some_examples()]


def _some_examples() -> list[str]:
    """Every fourth of the test images that come with the package: five classes."""
    return [str(path) for path in example_images()[::4]]


__all__ = ["build_page", "serve"]
