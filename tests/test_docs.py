"""What the documentation says can be done: links lead somewhere, commands parse, paths exist, Python compiles."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import coinfer_kernels
import pytest
import typer
import yaml

import coinfer_ray
from coinfer_ray.cli.app import app
from coinfer_ray.optimizer.problem import ProblemOptions
from coinfer_ray.scenarios.read import ScenarioOptions

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("[ck]*/README.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.M | re.S)
PARTS = "benchmarks|clusters|coinfer_ray|docs|examples|kernels|scripts|studies|tests"
INVENTED = {"coinfer_ray/methods/yours.py"}  # the file that a reader is told to write
FORMER_NAMES = {"search"}  # commands that still work under a name that the documentation no longer says


def load(path: Path) -> ModuleType:
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(text: str, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(text) if name == language]


def prose(text: str) -> str:
    """The text without what stands between fences."""
    return FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """The places of a page that a link may name, as GitHub and the site make them of headings."""
    titles = re.findall(r"^#+ (.*)$", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# ---------------------------------------------------------------------------------------------------- links and paths


def dead_links(page: Path) -> list[str]:
    found = []
    text = prose(page.read_text())
    for address in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if re.match(r"[a-z]+:", address):
            continue
        path, _, anchor = address.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            found.append(address)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_leads_somewhere(name: str) -> None:
    assert dead_links(ROOT / name) == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    links = '[a](#one) [b](page.md#one) [c](https://example.org/) [d](#two) [e](none.md) <img src="none.png">'
    page.write_text(f"# One\n{links}\n")
    assert dead_links(page) == ["#two", "none.md", "none.png"]


@pytest.mark.parametrize("name", NAMES)
def test_every_path_of_the_repository_exists(name: str) -> None:
    named = set(re.findall(rf"(?<![\w/.-])(?:{PARTS})/[\w./-]*\w", (ROOT / name).read_text()))
    assert {path for path in named - INVENTED if not (ROOT / path).exists()} == set()


def test_the_table_of_contents_holds_every_page() -> None:
    trees = re.findall(r"^```{toctree}\n(.*?)^```$", (ROOT / "docs" / "index.md").read_text(), re.M | re.S)
    listed = {line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")}
    pages = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert listed == pages - {"index"}


# ---------------------------------------------------------------------------------------------------------- commands


def command_lines(text: str) -> Iterator[list[str]]:
    """The words behind ``coinfer`` of every command in the blocks of a page."""
    for block in (body for language in ("bash", "console", "sh") for body in blocks(text, language)):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = next((place for place, word in enumerate(words) if word in {"&&", "||", ";", "|"}), len(words))
                part, words = words[:end], words[end + 1 :]
                part = part[: part.index(">")] if ">" in part else part
                while part and re.fullmatch(r"[A-Z_]+=.*", part[0]):
                    part = part[1:]
                if part and part[0] == "coinfer":
                    yield part[1:]


def test_a_block_behind_a_directive_is_found() -> None:
    text = "```{image} a.svg\n:alt: a\n```\n\ntext\n\n```bash\ncoinfer models\n```\n"
    assert blocks(text, "bash") == ["coinfer models\n"]
    assert prose(text).split() == ["text"]


def typed(text: str) -> list[list[str]]:
    """The commands of a shell text that call coinfer or python, one list of words each, redirections included; what
    only a script does, a guard against doing a thing twice, is left out."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    split = [shlex.split(line.partition("] || ")[2] or line, comments=True) for line in lines]
    return [words for words in split if words and words[0] in ("coinfer", "python")]


def test_the_page_and_the_script_of_resnet18_have_the_same_commands() -> None:
    page = (ROOT / "docs" / "howto" / "resnet18.md").read_text()
    script = (ROOT / "examples" / "resnet18" / "run.sh").read_text()
    script = script.replace('"$data"', "digits").replace("$example", "../../examples/resnet18")
    commands = typed("\n".join(blocks(page, "bash")))
    assert commands == typed(script)
    steps = {"models", "compare", "collect", "fit", "optimize", "verify", "sweep", "report"}
    assert steps <= {words[1] for words in commands}  # the whole way


@cache
def root() -> Any:
    return typer.main.get_command(app)


def command_named(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, and the words that are left. KeyError for one that there isn't."""
    command = root()
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def parse(words: list[str]) -> None:
    """Parse a command line as ``coinfer`` would, and don't run it."""
    command, rest = command_named(words)
    if "--help" not in rest:
        command.make_context("coinfer", list(rest))


@pytest.mark.parametrize("name", [name for name in NAMES if "coinfer " in (ROOT / name).read_text()])
def test_every_command_line_parses(name: str) -> None:
    text = (ROOT / name).read_text()
    for words in command_lines(text):
        parse(words)
    for quoted in re.findall(r"`coinfer ([a-z][^`]*)`", prose(text)):
        command, rest = command_named(shlex.split(quoted))
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options | {"--help", "--version"}


@pytest.mark.parametrize(
    "wrong", ["optimise --model alexnet", "optimize --modell alexnet", "sweep g --outt", "atlas shows a"]
)
def test_a_wrong_command_line_is_found(wrong: str) -> None:
    (words,) = command_lines(f"```bash\nX=1 coinfer {wrong} > out.json\n```\n")
    assert words == wrong.split()
    with pytest.raises(Exception, match=r".") as caught:
        parse(words)
    assert isinstance(caught.value, KeyError) or hasattr(caught.value, "format_message")


def visible(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield f"{path} {name}".strip(), inner
            yield from visible(inner, f"{path} {name}".strip())


def test_the_readme_lists_every_command() -> None:
    listed = re.findall(r"^\| `coinfer (\w+)` \|", (ROOT / "README.md").read_text(), re.M)
    there = {name for name, _ in visible(root()) if " " not in name}
    assert len(listed) == len(set(listed))
    assert set(listed) == there - FORMER_NAMES


def test_every_option_says_what_it_means() -> None:
    silent = [
        f"{name} {parameter.name}"
        for name, command in visible(root())
        for parameter in command.params
        if not parameter.help
    ]
    assert silent == []


# ------------------------------------------------------------------------------------------------------------ Python


def check_call(name: str, call: ast.Call) -> None:
    """TypeError or an assertion for arguments that a public function does not take."""
    signature = inspect.signature(getattr(coinfer_ray, name))
    keywords = {str(keyword.arg) for keyword in call.keywords}
    signature.bind(*call.args, **dict.fromkeys(keywords))
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
        assert keywords <= {
            *signature.parameters,
            *ScenarioOptions.__optional_keys__,
            *ProblemOptions.__optional_keys__,
        }


def test_a_call_with_a_wrong_argument_is_found() -> None:
    call = ast.parse('optimize("alexnet", device="rpi4b", rate_mbs=3)').body[0]
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    with pytest.raises(AssertionError):
        check_call("optimize", call.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_python_block_compiles_and_calls_what_there_is(name: str) -> None:
    for block in blocks((ROOT / name).read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            if not (
                isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "coinfer"
            ):
                continue
            assert node.attr in coinfer_ray.__all__
        for call in (node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)):
            function = call.func
            if isinstance(function, ast.Attribute) and getattr(function.value, "id", None) == "coinfer":
                check_call(function.attr, call)


@pytest.mark.parametrize(("page", "package"), [("python", coinfer_ray), ("kernels", coinfer_kernels)])
def test_the_reference_has_every_public_name(page: str, package: ModuleType) -> None:
    text = (ROOT / "docs" / "reference" / f"{page}.md").read_text()
    listed = re.findall(rf"^\.\. auto(?:function|class|exception):: {package.__name__}\.(\w+)$", text, re.M)
    assert sorted(listed) == sorted(package.__all__)


def test_the_answer_has_what_the_quick_start_prints() -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "docs" / "quickstart.md").read_text()
    asked = {name for block in blocks(text, "python") for name in re.findall(r"\banswer\.(\w+)", block)}
    assert {"latency_s", "strategy"} <= asked
    assert asked <= set(coinfer_ray.Answer.__dataclass_fields__)


def undocumented(name: str, thing: Any) -> list[str]:
    """Parameters that neither a function's docstring nor that of its class names."""
    if isinstance(thing, type) and issubclass(thing, tuple):  # its fields are documented where they stand
        return []
    text = thing.__doc__ or ""
    if isinstance(thing, type) and "__init__" in vars(thing):
        text += thing.__init__.__doc__ or ""
    try:
        parameters = inspect.signature(thing).parameters
    except ValueError:  # an exception's
        return []
    return [f"{name}: {one}" for one in parameters if one not in ("self", "cls") and not re.search(rf"\b{one}\b", text)]


def methods_of(cls: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(cls).items():
        if not name.startswith("_") and isinstance(value, classmethod | staticmethod | FunctionType):
            yield name, getattr(value, "__func__", value)


@pytest.mark.parametrize("package", [coinfer_ray, coinfer_kernels], ids=lambda package: package.__name__)
def test_every_public_parameter_can_be_looked_up(package: ModuleType) -> None:
    found = []
    for name in package.__all__:
        thing = getattr(package, name)
        found += undocumented(name, thing)
        for method, function in methods_of(thing) if isinstance(thing, type) else ():
            found += undocumented(f"{name}.{method}", function) + ([] if function.__doc__ else [f"{name}.{method}"])
    assert found == []


# -------------------------------------------------------------------------------------------------------- first page


def test_the_first_page_stays_short_and_starts_at_once() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 110
    head = "\n".join(lines[:40])
    assert [language for language, _ in FENCE.findall(head)] == ["bash", "python"]
    assert "docs/images/" in head


def test_the_measured_figures_of_the_first_page_are_those_of_the_records_page() -> None:
    """Each row of the first page's table stands in the page that has the command for it."""

    def figures(text: str) -> list[list[str]]:
        rows = re.findall(r"^\|[^|]*\|( \d+ of 40 \|.*)\|$", text, re.M)
        return [[cell.strip() for cell in row.split("|")] for row in rows]

    first = figures((ROOT / "README.md").read_text())
    assert len(first) == 6  # both networks at three losses
    assert first == figures((ROOT / "docs" / "records.md").read_text())


def test_one_version_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert re.search(rf"^## \[(?:Unreleased\] {re.escape(version)}|{re.escape(version)}\])", CHANGES, re.M)


CHANGES = (ROOT / "CHANGELOG.md").read_text()


# -------------------------------------------------------------------------------------------------------------- site


def test_the_drawing_of_the_layers_is_that_of_the_test() -> None:
    module = load(ROOT / "docs" / "draw_layers.py")
    assert (ROOT / "docs" / "images" / "layers.svg").read_text() == module.drawing()


def test_the_site_check_finds_dead_links_and_foreign_hosts(tmp_path: Path) -> None:
    check = load(ROOT / "scripts" / "check_site.py")
    assert check.faults(tmp_path) != []  # no page at all
    (tmp_path / "b.html").write_text('<h1 id="place">b</h1>')
    (tmp_path / "a.html").write_text(
        '<a href="b.html#place">b</a> <a href="https://example.org">out</a> <a href="#">a</a>'
    )
    assert check.faults(tmp_path) == []
    (tmp_path / "a.html").write_text(
        '<a href="c.html">c</a> <a href="b.html#gone">b</a> <script src="https://example.org/x.js"></script>'
    )
    assert [fault.split(": ", 1)[1] for fault in check.faults(tmp_path)] == [
        "c.html leads to no file",
        "b.html#gone leads to no place in its page",
        "loads https://example.org/x.js",
    ]
