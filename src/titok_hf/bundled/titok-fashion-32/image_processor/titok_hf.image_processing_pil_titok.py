"""This checkpoint is loaded by the package titok-hf; this file only imports it.

transformers and diffusers run it when they are asked to load the checkpoint with `trust_remote_code=True`.
"""

try:
    import titok_hf
except ModuleNotFoundError as error:
    raise ImportError(
        "This checkpoint needs the package titok-hf, which cannot be imported here. Install it with "
        "`pip install titok-hf`."
    ) from error


def __getattr__(name):
    return getattr(titok_hf, name)
