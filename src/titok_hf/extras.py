"""Names the extra of this package that installs a missing library, from the package's metadata."""

from __future__ import annotations

from importlib.util import find_spec

# Modules whose name differs from that of their distribution.
_DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml"}


def how_to_install(module: str) -> str:
    """One sentence about a module that cannot be imported."""
    name = distribution_of(module)
    extra = extra_with(name)
    wanted = f"titok-hf[{extra}]" if extra else name
    return f'the library {name} is needed for this and is not installed. Install it with: pip install "{wanted}"'


def check_extra(extra: str, *modules: str) -> None:
    """ValueError if a command lacks one of these modules, before anything slow is imported; names the extra."""
    missing = [distribution_of(module) for module in modules if find_spec(module) is None]
    if missing:
        raise ValueError(
            f"this command needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed. "
            f'Install {"it" if len(missing) == 1 else "them"} with: pip install "titok-hf[{extra}]"'
        )


def distribution_of(module: str) -> str:
    """The distribution that installs a module."""
    top = module.partition(".")[0]
    return _DISTRIBUTIONS.get(top, top).replace("_", "-").lower()


def extra_with(distribution: str) -> str | None:
    """The first extra of this package that installs a distribution; None if none does."""
    # Here, because these imports are slow.
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
