"""Inputs of the web page whose files are read by us: what is no image becomes a sentence, and no path is shown."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components.image_editor import EditorData
from gradio.data_classes import FileData, ImageData
from PIL import Image

from ..image_processing_pil_titok import decoded
from ..image_transforms import upright

# Of an uploaded file. Gradio refuses larger ones while they arrive.
MAX_FILE_SIZE = "20mb"


def open_upload(path: str | Path) -> Image.Image:
    """
    Read an uploaded image: upright, and of an animation the first frame.

    Raises:
        gr.Error: a file that is no image, is damaged, or has too many pixels; the page shows its sentence.
    """
    try:
        image = decoded(Path(path).read_bytes(), "This file")
    except (OSError, ValueError) as error:
        # Pillow writes the object that it could not read into its message.
        raise gr.Error(
            str(error).partition(" <_io")[0].rstrip(": ") + ".", title="The image cannot be used"
        ) from error
    if getattr(image, "n_frames", 1) > 1:
        gr.Info("This image is animated. Its first frame is used.")
    return upright(image)


def image_upload(label: str, height: int, elem_id: str) -> gr.Image:
    """An image that a visitor uploads or pastes; functions get a PIL image, RGB, or None if there is none."""
    return _ImageUpload(label=label, height=height, elem_id=elem_id, sources=["upload", "clipboard"])


def drawing_upload(brush: gr.Brush, **settings: Any) -> gr.ImageEditor:
    """
    An image that a visitor uploads, pastes or draws on. Functions get a dictionary, or None if there is nothing: the
    `background`, the `composite` with what was drawn, both RGB, and the drawn `layers`, RGBA.
    """
    return _DrawingUpload(show_label=False, brush=brush, sources=("upload", "clipboard"), height=360, **settings)


def _uploaded(component: gr.Image, payload: ImageData | None) -> Image.Image | None:
    return None if payload is None or payload.path is None else _as_rgb(open_upload(payload.path))


def _drawn(component: gr.ImageEditor, payload: EditorData | None) -> dict[str, Any] | None:
    if payload is not None and payload.id is not None:  # the browser sent bytes instead of files
        payload = component.blob_storage.get(payload.id)  # type: ignore[assignment]
    if payload is None:
        return None
    composite, background = _opened(payload.composite), _opened(payload.background)
    if composite is None and background is None:
        return None
    layers = [layer.convert("RGBA") for layer in map(_opened, payload.layers or ()) if layer is not None]
    background, composite = _as_rgb(background or composite), _as_rgb(composite or background)
    return {"background": background, "composite": composite, "layers": layers}


def _with_preprocess(base: type, preprocess: Callable[..., Any]) -> Any:
    """
    A component that reads what visitors send by `preprocess`, and that Gradio shows as `base`.

    The class statement is avoided: Gradio's metaclass writes a .pyi file beside the module of each new component.
    """
    members = {"preprocess": preprocess, "is_template": True, "__module__": __name__}
    return ABCMeta.__new__(type(base), base.__name__, (base,), members)


def _opened(source: FileData | bytes | None) -> Image.Image | None:
    if source is None or isinstance(source, bytes):
        return None if source is None else decoded(source, "This drawing")
    return open_upload(source.path)


def _as_rgb(image: Any) -> Image.Image:
    """RGB, transparent pixels on white."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


_ImageUpload = _with_preprocess(gr.Image, _uploaded)
_DrawingUpload = _with_preprocess(gr.ImageEditor, _drawn)
