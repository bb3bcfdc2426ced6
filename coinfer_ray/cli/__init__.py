"""``coinfer``: the command line.

Exit status: 0 done, 2 bad input (one line on stderr), 1 an internal error, 130 interrupted, 143 ended by SIGTERM. This
module imports nothing but the standard library; a command imports what it needs when it runs.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Sequence

from coinfer_ray.cli.exits import (
    DEBUG_VARIABLE,
    EXIT_BAD_INPUT,
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    end_after_sigterm,
    ended_by_sigterm,
)
from coinfer_ray.errors import InputError

_EXTRA_MODULES = {
    "search": ("typer", "rich", "ray", "sklearn", "scipy", "pyarrow", "pydantic", "yaml", "matplotlib"),
    "train": ("torch", "torchvision", "nni", "PIL"),
    "device": ("onnx", "onnxruntime"),
}
# What a disk, a quota or an owner refuses, and no program can help.
_NOT_TAKEN = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE)
_EXTRA_OF_MODULE = {module: extra for extra, modules in _EXTRA_MODULES.items() for module in modules}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; ``arguments`` default to the process's own."""
    terminated: list[int] = []
    try:
        with ended_by_sigterm(terminated):
            from coinfer_ray.cli.app import run

            status = run(arguments)
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    except Exception as error:
        status, message = explain(error)
        print(f"coinfer: {message}", file=sys.stderr)
        if os.environ.get(DEBUG_VARIABLE) == "1":
            traceback.print_exception(error)
    if status == EXIT_INTERRUPTED:
        how, status = ("ended by SIGTERM", EXIT_TERMINATED) if terminated else ("interrupted", status)
        print(f"coinfer: {how}; run a long command again to go on where it stopped", file=sys.stderr)
        if status == EXIT_TERMINATED:
            end_after_sigterm()
    return status


def explain(error: Exception) -> tuple[int, str]:
    """Exit status and the one line for an error."""
    if isinstance(error, InputError):
        return EXIT_BAD_INPUT, _one_line(str(error))
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" for {error.filename}" if error.filename else ""
        return EXIT_BAD_INPUT, f"no space is left{where}; make room and run again, what is done stays"
    if isinstance(error, OSError) and error.filename and error.errno in _NOT_TAKEN:
        reason = f"{error.filename}: {error.strerror}"
        return EXIT_BAD_INPUT, f"{_one_line(reason)}; mend that and run again, what is done stays"
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        if module in _EXTRA_OF_MODULE:
            extra = _EXTRA_OF_MODULE[module]
            return EXIT_BAD_INPUT, f"this command needs {module}: pip install 'coinfer-ray[{extra}]'"
    if hasattr(error, "format_message"):  # a usage error of typer's parser
        return EXIT_BAD_INPUT, f"{_plain_words(_one_line(error.format_message()))}{_help_hint(error)}"
    hint = "" if os.environ.get(DEBUG_VARIABLE) == "1" else f" (set {DEBUG_VARIABLE}=1 for the traceback)"
    return EXIT_FAILURE, f"{type(error).__name__}: {_one_line(str(error))}{hint}"


def _plain_words(text: str) -> str:
    """A usage error without the words of the library that checks options."""
    for theirs, ours in (
        (r"Value error, ", ""),
        (r"Input should be a valid integer\b.*", "must be a whole number"),
        (r"Input should be a valid number\b.*", "must be a number"),
        (r"Input should be a valid (\w+)\b.*", r"must be a \1"),
        (r"Input should be greater than or equal to ", "must be at least "),
        (r"Input should be less than or equal to ", "must be at most "),
        (r"Input should be ", "must be "),
    ):
        text = re.sub(theirs, ours, text)
    return text


def _help_hint(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f" (see `{context.command_path} --help`)" if context is not None else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
