"""The page of `titok-hf serve`, as a Hugging Face Space."""

import os

from titok_hf.cli.models import load_pipeline
from titok_hf.serve.actions import ServedModels
from titok_hf.serve.page import serve

if __name__ == "__main__":
    models = os.environ.get("MODELS", "").split()
    # A Space forwards visitors to this port of its container, from outside of it.
    serve(ServedModels(models, lambda name: load_pipeline(name, device=None)), host="0.0.0.0", port=7860)
