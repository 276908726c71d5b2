"""
How the site reads docstrings, which are written for `help()`: an `Example:` is code, a section may follow another
without an empty line, and the marks of links and types that only the Hugging Face documentation builder knows
([`Name`] and (`Type` of shape `(...)`)) become plain Markdown.
"""

import re
from typing import Any

from griffe import Extension, Object


class Docstrings(Extension):
    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring:
            text = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
            text = re.sub(r"^( *)(Examples|Raises|Returns|Yields):$", r"\n\1\2:", text, flags=re.MULTILINE)
            text = re.sub(r"^( *[\w, ]+) \((.*`.*)\):", _without_backticks, text, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"\[(`[^`]+`)\](?![\[(])", r"\1", text)


def _without_backticks(argument: re.Match[str]) -> str:
    return f"{argument[1]} ({argument[2].replace('`', '').replace('*', '')}):"
