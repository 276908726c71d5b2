"""`titok-hf serve`: a web page to play with models."""

from __future__ import annotations

from typing import Annotated

import typer

from ..extras import check_extra
from .console import answer, messages
from .models import check_model, load_pipeline, model_name
from .options import AsJson, Device, with_bundled


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Folders or Hub ids to choose from. By default the model that comes with titok-hf.",
            callback=with_bundled,
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; 0.0.0.0 lets other machines reach the page.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            min=1,
            max=65535,
            help="Port to listen at. By default the first free one from 7860 on.",
            show_default=False,
        ),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """
    Start a web page: see the tokens of an image, change them, generate, vary, inpaint and interpolate.

    **Examples**

    `titok-hf serve --open`

    `titok-hf serve my-model other-model --host 0.0.0.0 --port 8000`
    """
    check_extra("serve", "gradio")
    for model in models or ():
        check_model(model)
    with messages.status("starting the page"):
        from titok_hf.serve.actions import ServedModels
        from titok_hf.serve.page import serve as start

        served = ServedModels(models or (), lambda name: load_pipeline(name, device))
        page = start(served, host, port, inbrowser=open_browser, prevent_thread_lock=True, quiet=True)
    values = {"url": page.local_url, "models": [model_name(name) for name in served.names]}
    answer(values, as_json, f"The page is at {page.local_url}. Ctrl-C stops it.")
    page.block_thread()
