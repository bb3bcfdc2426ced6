"""The walls between the parts: who may import what, and that the search side runs without torch and nni."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "coinfer_ray"
TORCH_PARTS = ("training", "compression", "deploy", "models/trace.py", "models/zoo.py", "models/split.py")
RAY_PARTS = ("executors/ray_executor.py", "adapters/ray_tune.py")

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


def imports_of(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports at run time, at its top or inside a function."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def offenders(files: Iterator[Path], packages: set[str], allowed: tuple[str, ...] = ()) -> list[str]:
    found = []
    for path in files:
        place = path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else path.name
        if place.startswith(allowed):
            continue
        found += [f"{place}: {name}" for name in imports_of(path) if name.split(".")[0] in packages]
    return found


def test_only_training_models_compression_and_deploy_import_torch() -> None:
    torch_packages = {"torch", "torchvision", "nni", "safetensors"}
    assert offenders(PACKAGE.rglob("*.py"), torch_packages, TORCH_PARTS) == []
    assert offenders(iter([PACKAGE / "models" / "trace.py"]), torch_packages) != []  # the check can fail


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
        ["fit", str(PACKAGE / "records" / "alexnet-64px.parquet"), "--json"],
    ],
)
def test_the_search_side_needs_neither_torch_nor_nni(arguments: list[str]) -> None:
    code = WITHOUT_TORCH.format(arguments=arguments)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout
