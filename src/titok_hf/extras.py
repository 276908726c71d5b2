"""Which extra brings a library that is not installed, as the metadata of this package says it."""

from __future__ import annotations

from importlib.util import find_spec

# Modules that are called otherwise than what is installed.
_DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml"}


def how_to_install(module: str) -> str:
    """One sentence about a module that cannot be imported."""
    name = distribution_of(module)
    extra = extra_with(name)
    wanted = f"titok-hf[{extra}]" if extra else name
    return f'the library {name} is needed for this and is not installed. Install it with: pip install "{wanted}"'


def check_extra(extra: str, *modules: str) -> None:
    """
    Look for the modules that a command cannot do without, before anything slow is imported.

    Raises:
        ValueError: one of them is not installed; says which extra brings it.
    """
    missing = [distribution_of(module) for module in modules if find_spec(module) is None]
    if missing:
        raise ValueError(
            f"this command needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed. "
            f'Install {"it" if len(missing) == 1 else "them"} with: pip install "titok-hf[{extra}]"'
        )


def distribution_of(module: str) -> str:
    """What to install for a module."""
    top = module.partition(".")[0]
    return _DISTRIBUTIONS.get(top, top).replace("_", "-").lower()


def extra_with(distribution: str) -> str | None:
    """The first extra of this package that brings a distribution; None if none does."""
    # These take longer to import than most commands take to fail.
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        requirements = [Requirement(text) for text in requires("titok-hf") or ()]
    except PackageNotFoundError:
        return None
    for requirement in requirements:
        if canonicalize_name(requirement.name) == canonicalize_name(distribution) and requirement.marker:
            _, _, extra = str(requirement.marker).partition("extra == ")
            if extra:
                return extra.strip("\"' )")
    return None


__all__ = ["check_extra", "distribution_of", "extra_with", "how_to_install"]
