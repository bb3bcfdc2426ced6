"""The walls between the parts: layers, circles, and who may import torch and ray."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coinfer_ray.models.library import load_graph
from coinfer_ray.predictor.fit import fit_predictor
from tests.synthetic import write_synthetic_records

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "coinfer_ray"
TORCH_PARTS = (
    "training",
    "compression",
    "deploy",
    "models/trace.py",
    "models/symbolic.py",
    "models/operations.py",
    "models/zoo.py",
    "models/split.py",
    "models/layout.py",
    "models/norms.py",
    "models/pointwise.py",
    "methods/ddpg.py",
    "profile/torch_layers.py",
)
RAY_PARTS = (
    "runtime/executors/ray_executor.py",
    "runtime/executors/ray_metrics.py",
    "adapters/ray_tune.py",
    "adapters/ray_space.py",
)

# From the ground up: a folder or file imports from its own layer's folder and from lower layers only.
LAYERS = (
    ("errors", "version"),
    ("runtime",),
    ("adapters",),
    ("models",),
    ("problem",),
    ("scenarios", "records", "compression"),
    ("predictor",),
    ("optimizer", "training"),
    ("atlas", "methods", "refine", "benchmark", "profile"),
    ("sweeps",),
    ("report",),
    ("reproduce",),
    ("cli",),
)
KERNEL_LAYERS = (
    ("machine_code", "notation"),
    ("linking", "checks"),
    ("jit",),
    ("rng", "huffman"),
    ("space", "costs", "trees"),
    ("problem",),
    ("algorithm1", "local_search", "exact", "blackbox"),
    ("atlas", "warm_up"),
)

WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "nni", "safetensors"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from coinfer_ray.cli import main
sys.exit(main({arguments!r}))
"""


def imports_of(path: Path, members: bool = False, at_top: bool = False) -> Iterator[str]:
    """Names of the modules that a file imports at run time: anywhere, or ``at_top``, when it is itself imported.

    With ``members`` every ``from module import name`` as ``module.name``, for that may be a module itself.
    """
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    later = {
        id(inner)
        for node in ast.walk(tree)
        if at_top and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only | later:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names) if members else [node.module]


def offenders(files: Iterator[Path], packages: set[str], allowed: tuple[str, ...] = ()) -> list[str]:
    found = []
    for path in files:
        place = path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else path.name
        if place.startswith(allowed):
            continue
        found += [f"{place}: {name}" for name in imports_of(path) if name.split(".")[0] in packages]
    return found


def modules_of(root: Path) -> dict[str, Path]:
    """The dotted names of all modules below a package's folder, the package's own name left out."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows(root: Path, package: str, at_top: bool = False) -> dict[str, set[str]]:
    """Module -> the modules of the same package that it imports, those of ``from package import module`` too."""
    modules = modules_of(root)
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        targets = set()
        for imported in imports_of(path, members=True, at_top=at_top):
            inner = imported.removeprefix(package + ".")
            if inner == imported:
                continue
            while inner and inner not in modules:
                inner = inner.rpartition(".")[0]
            targets.add(inner)
        found[name] = targets - {name, ""}
    return found


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """A circle of imports, or nothing."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for target in sorted(graph.get(node, ())):
            if found := visit(target, [*path, node]):
                return found
        done.add(node)
        return []

    for node in graph:
        if found := visit(node, []):
            return found
    return []


def climbing(graph: dict[str, set[str]], layers: tuple[tuple[str, ...], ...]) -> list[str]:
    """Imports that do not lead to the same room or down to a lower layer, and modules that stand on no layer."""
    height = {room: level for level, rooms in enumerate(layers) for room in rooms}
    wrong = [f"{name}: on no layer" for name in graph if name and name.split(".")[0] not in height]
    for name, targets in graph.items():
        room = name.split(".")[0]
        if room not in height:
            continue
        for target in targets:
            other = target.split(".")[0]
            if other != room and height.get(other, -1) >= height[room]:
                wrong.append(f"{name} -> {target}")
    return wrong


@pytest.mark.parametrize(
    ("root", "package", "layers"),
    [
        (PACKAGE, "coinfer_ray", LAYERS),
        (ROOT / "kernels" / "coinfer_kernels", "coinfer_kernels", KERNEL_LAYERS),
    ],
)
def test_imports_run_down_the_layers_and_in_no_circle(
    root: Path, package: str, layers: tuple[tuple[str, ...], ...]
) -> None:
    graph = arrows(root, package)
    assert circle_in(graph) == []
    assert climbing(graph, layers) == []
    # The checks can fail: turned upside down, most imports climb; an import back closes a circle.
    assert climbing(graph, layers[::-1]) != []
    source = next(name for name in graph if graph[name])
    assert circle_in(graph | {next(iter(graph[source])): {source}}) != []


def test_no_file_is_longer_than_500_lines() -> None:
    parts = ("coinfer_ray", "kernels", "tests", "benchmarks", "studies", "examples")
    long = {
        str(path.relative_to(ROOT)): lines
        for part in parts
        for path in (ROOT / part).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 500
    }
    assert long == {}


def test_only_training_models_compression_and_deploy_import_torch() -> None:
    torch_packages = {"torch", "torchvision", "nni", "safetensors"}
    assert offenders(PACKAGE.rglob("*.py"), torch_packages, TORCH_PARTS) == []
    assert offenders(iter([PACKAGE / "models" / "trace.py"]), torch_packages) != []  # the check can fail


def test_importing_the_search_side_imports_no_torch() -> None:
    graph = arrows(PACKAGE, "coinfer_ray", at_top=True)
    modules = modules_of(PACKAGE)
    heavy = {name for name, path in modules.items() if offenders(iter([path]), {"torch", "torchvision", "nni"})}
    while True:  # and whoever imports these when it is itself imported
        more = {name for name, targets in graph.items() if targets & heavy} - heavy
        if not more:
            break
        heavy |= more
    allowed = tuple(part.removesuffix(".py").replace("/", ".") for part in TORCH_PARTS)
    assert "training.trainer" in heavy
    assert sorted(name for name in heavy if not name.startswith((*allowed, "refine.run"))) == []


def test_only_the_executor_and_the_adapter_import_ray() -> None:
    assert offenders(PACKAGE.rglob("*.py"), {"ray"}, RAY_PARTS) == []


def test_the_kernels_import_numpy_and_numba_alone() -> None:
    files = list((ROOT / "kernels" / "coinfer_kernels").rglob("*.py"))
    # llvmlite is numba's own other half.
    allowed = sys.stdlib_module_names | {"numpy", "numba", "llvmlite", "coinfer_kernels"}
    foreign = [name for path in files for name in imports_of(path) if name.split(".")[0] not in allowed]
    assert files
    assert foreign == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["optimize", "--model", "alexnet", "--device", "rpi3b+", "--server", "p100", "--link", "4g", "--json"],
        ["models", "alexnet"],
        ["fit", "RECORDS", "--json"],
    ],
)
def test_the_search_side_needs_neither_torch_nor_nni(arguments: list[str], tmp_path: Path) -> None:
    if "RECORDS" in arguments:
        few = write_synthetic_records(tmp_path / "records.parquet", count=30)
        arguments = [str(few) if argument == "RECORDS" else argument for argument in arguments]
    code = WITHOUT_TORCH.format(arguments=arguments)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout


SCENARIO = ["--device", "rpi4b", "--server", "p100", "--link", "3g"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models", "resnet18", "--input-px", "32"], "'resnet18' does not ship (alexnet and regnet_x_400mf do); a net"),
        (["models", "alexnt"], "'alexnt' does not ship (alexnet and regnet_x_400mf do); did you mean alexnet? A net"),
        (
            ["optimize", "--model", "resnet18", *SCENARIO],
            "needs a trace: pip install 'coinfer-ray[train]', or give rec",
        ),
        (["models", "alexnet", "--input-px", "32"], "ships for inputs of 64, 128, 224 px; 32 px needs a trace: pip"),
    ],
)
def test_a_network_that_only_torch_has_is_not_called_unknown(arguments: list[str], message: str) -> None:
    code = WITHOUT_TORCH.format(arguments=arguments)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert (run.returncode, run.stdout) == (2, "")
    (line,) = run.stderr.splitlines()
    assert message in line


def test_records_of_a_network_that_does_not_ship_answer_by_its_name(tmp_path: Path) -> None:
    records = write_synthetic_records(tmp_path / "records.parquet", model="resnet18", input_px=32, count=30)
    saved = tmp_path / "predictor.npz"
    fit_predictor(records, regressor="decision_tree").save(saved)  # the quickest: what it predicts is not asked
    named = ["--model", "resnet18", "--records", str(saved), "--methods", "all_local", "--json"]
    arguments = ["compare", *named, *SCENARIO]
    code = WITHOUT_TORCH.format(arguments=arguments)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    (row,) = json.loads(run.stdout)
    assert row["latency_s"] == pytest.approx(load_graph("resnet18", 32).flops / 3e9)  # rpi4b's, all on the device
