"""Recipes: typed dataclasses filled from YAML files and from `key=value` overrides, checked by pydantic.

An unknown key is refused with the nearest known key, a value of the wrong type with its full key.
"""

from __future__ import annotations

import difflib
import json
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from titok_hf.guidance_scales import from_original

Recipe = TypeVar("Recipe")

RECIPES_FOLDER = Path(__file__).parent / "recipes"

# Old names of sections, which are still read.
_OLD_SECTIONS = {"cadence": "intervals"}


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

    exit_code = 2  # of a command, as for wrong arguments


def load_recipe(cls: type[Recipe], name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe as an instance of `cls`; arguments and errors are those of [`read_recipe`] and [`build_recipe`]."""
    return build_recipe(cls, read_recipe(name_or_path, overrides))


def read_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """
    The values of a recipe, not yet checked.

    Args:
        name_or_path: the name of a recipe of this package, or the path of a YAML file.
        overrides: `"key=value"` or `"group.key=value"`, the value written as in YAML; later ones win.
    Raises:
        RecipeError: no such recipe, not YAML, or an override that does not fit.
    """
    path = find_recipe(name_or_path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _RecipeLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise RecipeError(f"{path} holds a {type(values).__name__}; a recipe is a mapping of keys to values.")
    values = _with_new_sections(values)
    for override in overrides:
        _apply_override(values, override)
    return values


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


def build_recipe(cls: type[Recipe], values: Mapping[str, Any]) -> Recipe:
    """
    Builds a dataclass from nested mappings, every key and every value checked against its field.

    Args:
        cls: the dataclass; its fields may be dataclasses themselves. Fields without a default have to be given.
        values: field names to values; a mapping where the field is a dataclass.
    Raises:
        RecipeError: an unknown or missing key, a value of the wrong type, or what the dataclass itself refuses.
    """
    # As JSON, because a strict check of JSON accepts a list for a tuple, but neither 1 for true nor "1" for 1.
    text = json.dumps(_with_new_sections(values), default=str)
    try:
        return TypeAdapter(cls).validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        raise RecipeError(_sentence_of(cls, error)) from error


def recipe_to_yaml(recipe: Any) -> str:
    """The recipe as YAML that `load_recipe` reads back to an equal instance."""
    return yaml.safe_dump(TypeAdapter(type(recipe)).dump_python(recipe, mode="json"), sort_keys=False)


def new_name(key: str) -> str:
    """A key of a recipe ("cadence.log_every") with the present name of its section ("intervals.log_every")."""
    section, dot, rest = key.partition(".")
    return _OLD_SECTIONS.get(section, section) + dot + rest


def _with_new_sections(values: Mapping[str, Any]) -> dict[str, Any]:
    for old, new in _OLD_SECTIONS.items():
        if old in values and new in values:
            raise RecipeError(f"The recipe has both {old} and {new}, which is its new name. Keep {new}.")
    if "cadence" in values and isinstance(values.get("sampler"), dict):
        # Recipes of that age have the guidance scales of the original, too.
        values = {**values, "sampler": from_original(values["sampler"])}
    return {_OLD_SECTIONS.get(key, key): value for key, value in values.items()}


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        raise RecipeError(f"The override {override!r} is not of the form key=value or group.key=value.")
    try:
        value = yaml.load(text, _RecipeLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"The value of the override {override!r} is not valid YAML: {error}") from error
    *groups, name = new_name(key).split(".")
    for group in groups:
        values = values.setdefault(group, {})
        if not isinstance(values, dict):
            raise RecipeError(f"The override {override!r} does not fit: {group!r} is a value, not a group of keys.")
    values[name] = value


def _sentence_of(cls: type, error: ValidationError) -> str:
    """The first of the errors, or all keys that are missing, as one sentence."""
    errors = error.errors(include_url=False)
    missing = [_key_of(each["loc"]) for each in errors if each["type"] == "missing"]
    first = next((each for each in errors if each["type"] != "missing"), None)
    if first is None:
        return f"The recipe needs a value for {', '.join(missing)}; give it with --set {missing[0]}=VALUE."
    key, value = _key_of(first["loc"]), first["input"]
    if first["type"] == "unexpected_keyword_argument":
        return f"The recipe has no key '{key}'. {_nearest(str(first['loc'][-1]), _fields_at(cls, first['loc'][:-1]))}"
    if first["type"] == "value_error":  # what the dataclass itself refuses
        return str(first["ctx"]["error"])
    expected = first["msg"].removeprefix("Input should be ").replace("an object", "a group of keys")
    if first["type"].startswith("greater_than"):
        expected = expected.replace("greater than or equal to", "at least").replace("greater", "larger")
        return f"{key} is {value}; it must be {expected}."
    return f"{key} is {value!r} ({type(value).__name__}); expected {expected.replace('a valid array', 'a list')}."


def _key_of(location: Sequence[str | int]) -> str:
    """`("optimization", "betas", 1)` as `optimization.betas[1]`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


def _fields_at(cls: type, location: Sequence[str | int]) -> list[str]:
    """The keys that the group at a location may have."""
    for part in location:
        annotation = typing.get_type_hints(cls)[str(part)]
        cls = next(filter(is_dataclass, (annotation, *typing.get_args(annotation))))  # type: ignore[assignment]
    return [field.name for field in fields(cls)]


def _nearest(key: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"Did you mean {nearest[0]!r}?" if nearest else f"Known keys: {', '.join(known)}."
