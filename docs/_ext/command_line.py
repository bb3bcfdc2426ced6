"""The directive ``command-line``: every command of ``coinfer`` with its options, read from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import dedent
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its words after ``coinfer``, in the order of ``coinfer --help``."""
    import typer

    from coinfer_ray.cli.app import app

    yield from _below("", typer.main.get_command(app))


def _below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        words = f"{path} {name}".strip()
        if getattr(inner, "commands", None):
            yield from _below(words, inner)
        elif not inner.hidden:
            yield words, inner


def examples_of(command: Any) -> str:
    """The examples below a command's help, without the marks of its typesetting."""
    lines = (command.epilog or "").replace("\b", "").strip().splitlines()
    return dedent("\n".join(line for line in lines if line.strip() != "Examples:").strip("\n"))


def readings(name: str, command: Any) -> list[tuple[str, str]]:
    """Each argument and option as the command's help prints it, and its meaning."""
    context = command.make_context(f"coinfer {name}", [], resilient_parsing=True)
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    return [(written, " ".join(meaning.split())) for written, meaning in filter(None, records)]


def _typeset(text: str) -> list[nodes.Node]:
    """What stands between backticks as code, the rest as it is."""
    parts = text.split("`")
    return [nodes.literal(text=part) if number % 2 else nodes.Text(part) for number, part in enumerate(parts) if part]


class CommandLine(Directive):
    """One section for each command: usage, what it does, examples, options."""

    def run(self) -> list[nodes.Node]:
        return [self._section(name, command) for name, command in commands()]

    def _section(self, name: str, command: Any) -> nodes.section:
        section = nodes.section(ids=[f"coinfer-{name.replace(' ', '-')}"], names=[f"coinfer {name}"])
        section += nodes.title(text=f"coinfer {name}")
        section += nodes.paragraph("", "", *_typeset(" ".join((command.help or "").split())))
        usage = command.make_context(f"coinfer {name}", [], resilient_parsing=True).get_usage().removeprefix("Usage: ")
        section += nodes.literal_block(usage, usage, language="text")
        if examples := examples_of(command):
            block = nodes.literal_block(examples, examples, language="text")
            section += [nodes.rubric(text="Examples"), block]
        section += nodes.rubric(text="Arguments and options")
        listing = nodes.definition_list(classes=["options"])
        for written, meaning in readings(name, command):
            listing += nodes.definition_list_item(
                "",
                nodes.term("", "", nodes.literal(text=written)),
                nodes.definition("", nodes.paragraph("", "", *_typeset(meaning))),
            )
        section += listing
        return section


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
