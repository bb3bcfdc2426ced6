"""The one exception that bad input raises, the check that most often raises it, and how its lines count."""

from __future__ import annotations

import difflib

_CALLED: dict[str, str] = {}


class InputError(ValueError):
    """Input that cannot be used.

    The message is one line: what is wrong, where, and what would be right. The command line prints it on
    stderr and exits with status 2; a library caller catches it as a ``ValueError``. A path that stands for something
    else (:func:`call`) is written as what it stands for.
    """

    def __init__(self, message: str) -> None:
        for path, name in _CALLED.items():
            message = message.replace(path, name)
        super().__init__(message)


def call(path: str, name: str) -> None:
    """Let ``name`` be written for ``path`` in messages: what its user gave, of which it is a copy."""
    _CALLED[path] = name


def check_name(what: str, name: str, known: list[str] | tuple[str, ...]) -> None:
    """Raise InputError unless ``name`` is one of ``known``; the message names the nearest ones."""
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(known))}"
    raise InputError(f"{what}: {name!r} is unknown; {hint}")


def counted(count: int, what: str, several: str | None = None) -> str:
    """``1 row``, ``1,000 rows``: a number of things; ``several`` is their plural where an s does not make it."""
    return f"{count:,} {what if count == 1 else several or what + 's'}"
