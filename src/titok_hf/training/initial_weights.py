"""The weights that a new run starts from, where a recipe names some."""

from collections.abc import Iterable

from torch import nn
from transformers.utils import cached_file

from .recipes import RecipeError
from .tokenizer import load_model


def load_initial_weights(model: nn.Module, source: str) -> None:
    """
    Gives a model the weights of another one of its class.

    Args:
        source: folder or Hub id of such a model, or of a pipeline that has one as its transformer.
    Raises:
        RecipeError: there is no such model, or its parameters have other names or shapes.
    """
    place = {"subfolder": "transformer"} if _is_pipeline(source) else {}
    there = load_model(type(model), source, "init_from", **place).state_dict()
    own = model.state_dict()
    shapes = [name for name in own if name in there and own[name].shape != there[name].shape]
    differences = [
        f"{what} {_some(names)}"
        for what, names in (
            ("it lacks", own.keys() - there.keys()),
            ("this model has no", there.keys() - own.keys()),
            ("other shapes have", shapes),
        )
        if names
    ]
    if differences:
        raise RecipeError(
            f"init_from is {source!r}, whose weights do not fit the model of this recipe: {'; '.join(differences)}. "
            "Name a model of the same configuration, or change the recipe's model."
        )
    model.load_state_dict(there)


def _is_pipeline(source: str) -> bool:
    quietly = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        return cached_file(source, "model_index.json", **quietly) is not None
    except (OSError, ValueError):  # no such folder or repository, which loading says in one sentence
        return False


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
