"""Recipes: typed dataclasses filled from YAML files and from `key=value` overrides.

Nothing is guessed. A key that the dataclass does not have is refused with the nearest name it has, and a value of the
wrong type is refused with its full key, before anything is trained.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

Recipe = TypeVar("Recipe")

RECIPES_FOLDER = Path(__file__).parent / "recipes"


class _RecipeLoader(yaml.SafeLoader):
    """YAML with the numbers and truth values of version 1.2: `1e-4` is a number and `no` is text, not false."""


_BOOL, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_RecipeLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_BOOL, _FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_RecipeLoader.add_implicit_resolver(_BOOL, re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_RecipeLoader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"^[-+]?((\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?|\.inf|\.nan)$"),
    list("-+.0123456789"),
)


class RecipeError(ValueError):
    """A recipe that does not exist, is not readable, or does not fit its dataclass."""


def load_recipe(cls: type[Recipe], name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Fills a dataclass from a recipe.

    Args:
        cls: a dataclass; its fields may be dataclasses themselves. Fields without a default have to be given.
        name_or_path: the name of a recipe of this package, or the path of a YAML file.
        overrides: `"key=value"` or `"group.key=value"`, the value written as in YAML; later ones win.
    Returns:
        an instance of `cls`, every value checked against the annotation of its field.
    Raises:
        RecipeError: no such recipe, not YAML, an unknown or missing key, a value of the wrong type.
    """
    path = find_recipe(name_or_path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _RecipeLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise RecipeError(f"{path} holds a {type(values).__name__}; a recipe is a mapping of keys to values.")
    for override in overrides:
        _apply_override(values, override)
    return build_recipe(cls, values)


def find_recipe(name_or_path: str | Path) -> Path:
    """The file of a recipe, given its name in this package or a path; RecipeError if there is none."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise RecipeError(f"The recipe file {path} does not exist.")
        return path
    names = sorted(recipe.stem for recipe in RECIPES_FOLDER.glob("*.yaml"))
    if str(name_or_path) not in names:
        nearest = difflib.get_close_matches(str(name_or_path), names, n=1, cutoff=0.5)
        advice = f"Did you mean {nearest[0]!r}? " if nearest else ""
        raise RecipeError(
            f"There is no recipe {str(name_or_path)!r}. {advice}Use one of {', '.join(names)}, or the path "
            "of a .yaml file."
        )
    return RECIPES_FOLDER / f"{name_or_path}.yaml"


def build_recipe(cls: type[Recipe], values: Mapping[str, Any], prefix: str = "") -> Recipe:
    """Builds a dataclass from nested mappings, checking keys and types.

    Args:
        cls: the dataclass.
        values: field names to values; a mapping where the field is a dataclass.
        prefix: where `values` lies in the whole recipe, for messages ("data." for example).
    Raises:
        RecipeError: an unknown or missing key, a value of the wrong type, or what the dataclass itself refuses.
    """
    annotations = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise RecipeError(f"The recipe has no key '{prefix}{key}'. {_nearest(str(key), list(fields))}")
    missing = [prefix + name for name, field in fields.items() if name not in values and _is_required(field)]
    if missing:
        raise RecipeError(f"The recipe needs a value for {', '.join(missing)}; give it with --set {missing[0]}=VALUE.")
    checked = {key: _convert(value, annotations[key], prefix + key) for key, value in values.items()}
    try:
        return cls(**checked)
    except ValueError as error:
        raise RecipeError(str(error)) from error


def recipe_to_yaml(recipe: Any) -> str:
    """The recipe as it was run, overrides included, as YAML that `load_recipe` reads back to an equal instance."""
    return yaml.safe_dump(_to_plain(dataclasses.asdict(recipe)), sort_keys=False)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _nearest(key: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"Did you mean {nearest[0]!r}?" if nearest else f"Known keys: {', '.join(known)}."


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        raise RecipeError(f"The override {override!r} is not of the form key=value or group.key=value.")
    try:
        value = yaml.load(text, _RecipeLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"The value of the override {override!r} is not valid YAML: {error}") from error
    *groups, name = key.split(".")
    for group in groups:
        values = values.setdefault(group, {})
        if not isinstance(values, dict):
            raise RecipeError(f"The override {override!r} does not fit: {group!r} is a value, not a group of keys.")
    values[name] = value


def _convert(value: Any, annotation: Any, key: str) -> Any:
    """`value` as `annotation` wants it; widens int to float and YAML's lists to tuples, and nothing else."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_to_union(value, arguments, annotation, key)
    if origin is Literal:
        return _accept(value, value in arguments, f"one of {', '.join(map(repr, arguments))}", key)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return build_recipe(annotation, _accept(value, isinstance(value, dict), "a group of keys", key), f"{key}.")
    if origin in (list, tuple):
        return _convert_to_sequence(value, origin, arguments, key)
    if origin is dict:
        _accept(value, isinstance(value, dict), "a mapping", key)
        return {name: _convert(item, arguments[1], f"{key}.{name}") for name, item in value.items()}
    if annotation is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return float(_accept(value, is_number, "a number", key))
    # bool is a subclass of int, but `steps: true` is a mistake.
    fits = isinstance(value, annotation) and (annotation is bool or not isinstance(value, bool))
    return _accept(value, fits, f"a value of the type {annotation.__name__}", key)


def _convert_to_sequence(value: Any, origin: type, arguments: tuple[Any, ...], key: str) -> Any:
    _accept(value, isinstance(value, (list, tuple)), "a list", key)
    if origin is tuple and arguments[-1] is not Ellipsis:  # tuple[float, float]
        _accept(value, len(value) == len(arguments), f"a list of {len(arguments)} values", key)
    else:  # list[float], tuple[float, ...]
        arguments = arguments[:1] * len(value)
    items = zip(value, arguments, strict=True)
    return origin(_convert(item, argument, f"{key}[{index}]") for index, (item, argument) in enumerate(items))


def _convert_to_union(value: Any, arguments: tuple[Any, ...], annotation: Any, key: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    alternatives = [argument for argument in arguments if argument is not type(None)]
    if len(alternatives) == 1:
        return _convert(value, alternatives[0], key)
    for alternative in alternatives:
        try:
            return _convert(value, alternative, key)
        except RecipeError:
            continue
    return _accept(value, False, f"a value of the type {annotation}", key)


def _accept(value: Any, fits: bool, expected: str, key: str) -> Any:
    if not fits:
        raise RecipeError(f"{key} is {value!r} ({type(value).__name__}); expected {expected}.")
    return value


def _to_plain(value: Any) -> Any:
    """Tuples become lists: YAML knows no tuples, and a safe dump refuses them."""
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    return value


__all__ = ["RECIPES_FOLDER", "RecipeError", "build_recipe", "find_recipe", "load_recipe", "recipe_to_yaml"]
