"""What autodoc does not see in the kernels: the meaning of named tuples' fields, and the short names of types.

A field is documented by the comment at the end of its line in the source.
"""

from __future__ import annotations

import inspect
import re
from functools import lru_cache
from typing import Any

from coinfer_kernels.notation import BoolArray, FloatArray, IntArray
from numpy.typing import ArrayLike
from sphinx.util.typing import stringify_annotation

FIELD = re.compile(r"^    (\w+): ([^#=]+?)(?: = ([^#]+?))?(?:\s+# (.*))?$")


def fields_of(cls: type) -> list[tuple[str, str, str]]:
    """Name, type and meaning of each field of a named tuple; the comment may go on in comment lines of its own."""
    found: list[tuple[str, str, str]] = []
    for line in inspect.getsource(cls).splitlines():
        if match := FIELD.match(line):
            name, kind, _, comment = match.groups()
            if name in getattr(cls, "_fields", ()):
                found.append((name, kind, comment or ""))
        elif found and (further := re.match(r"^ {8,}# (.*)$", line)):
            name, kind, comment = found[-1]
            found[-1] = (name, kind, f"{comment} {further[1]}")
    return found


def _describe(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    if what == "class" and isinstance(thing, type) and issubclass(thing, tuple) and hasattr(thing, "_fields"):
        lines[:] = [line for line in lines if not line.startswith("Create new instance of")]
        lines += ["", ":Fields:"]
        for field, kind, comment in fields_of(thing):
            lines.append(f"    - **{field}** (``{kind}``)" + (f": {comment}" if comment else ""))
        lines.append("")


def _skip(app: Any, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the tuple's own "Alias for field number 0"."""
    return True if what == "class" and "Alias for field number" in (getattr(thing, "__doc__", None) or "") else None


def _shorten(
    app: Any, what: str, name: str, thing: Any, options: Any, arguments: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Types as the source says them: an alias that was expanded is folded again."""
    return tuple(None if text is None else _folded(text) for text in (arguments, returns))  # type: ignore[return-value]


def _folded(text: str) -> str:
    for long, short in _expanded():
        text = text.replace(long, short)
    return text


@lru_cache
def _expanded() -> list[tuple[str, str]]:
    aliases: list[tuple[Any, str]] = [(ArrayLike | None, "ArrayLike | None"), (ArrayLike, "ArrayLike")]
    aliases += [(FloatArray, "FloatArray"), (IntArray, "IntArray"), (BoolArray, "BoolArray")]
    return [(stringify_annotation(kind, "smart"), short) for kind, short in aliases]


def setup(app: Any) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", _describe)
    app.connect("autodoc-process-signature", _shorten)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
