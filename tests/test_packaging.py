"""What a user installs: the source distribution builds the wheel; the wheel holds what the packages read, and runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"coinfer_ray": ROOT / "coinfer_ray", "coinfer_kernels": ROOT / "kernels" / "coinfer_kernels"}
# The hooks of PEP 517, so that neither a network nor a front end is needed.
HOOK = "import sys; from setuptools import build_meta; print(getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2]))"
COMPILED = {".pyc", ".nbi", ".nbc"}


def build(kind: str, source: Path, out: Path) -> Path:
    """Build an ``sdist`` or a ``wheel`` of ``source`` into ``out`` and return the file."""
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-c", HOOK, kind, str(out)]
    run = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    return out / run.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, built from a copy: setuptools leaves its working files where it builds."""
    folder = tmp_path_factory.mktemp("sdist")
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "out", "*.nb[ic]")
    shutil.copytree(ROOT, folder / "source", ignore=unwanted)
    return build("sdist", folder / "source", folder / "dist")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the unpacked source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return build("wheel", next(folder.glob("coinfer_ray-*")), folder / "dist")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new environment with the wheel alone; dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True, timeout=120)
    # A path in a .pth file is searched last, and .pth files there (an editable installation) are not read.
    site = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def run_installed(installed: Path, *command: str, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        [str(installed / command[0]), *command[1:]],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def files_of_packages() -> set[str]:
    """Every file of the two packages by its path in a wheel."""
    return {
        f"{name}/{path.relative_to(folder).as_posix()}"
        for name, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in COMPILED
    }


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = files_of_packages()
    assert {"coinfer_ray/py.typed", "coinfer_kernels/py.typed", "coinfer_ray/models/graphs/alexnet-64px.json"} <= wanted
    assert any(name.startswith("coinfer_ray/records/shipped/") for name in wanted)
    assert {name for name in names if ".dist-info/" not in name} == wanted


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_the_metadata_says_who_may_use_it_and_where(wheel: Path) -> None:
    metadata = metadata_of(wheel)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Operating System :: POSIX" in metadata.get_all("Classifier", [])
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(metadata.get_all("Provides-Extra", [])) == set(extras)
    with zipfile.ZipFile(wheel) as archive:
        license_file = next(name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE"))
        assert archive.read(license_file) == (ROOT / "LICENSE").read_bytes()


def test_every_extra_that_an_error_or_the_readme_names_exists(wheel: Path) -> None:
    extras = set(metadata_of(wheel).get_all("Provides-Extra", []))
    texts = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *PACKAGES["coinfer_ray"].rglob("*.py")]
    named = {
        extra.strip()
        for path in texts
        for group in re.findall(r"(?:coinfer-ray|'\.|\"\.)\[([a-z, ]+)\]", path.read_text())
        for extra in group.split(",")
    }
    assert named
    assert named <= extras


def test_the_source_distribution_holds_tests_and_documentation(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ("LICENSE", "CHANGELOG.md", "CITATION.cff", "docs/conf.py", "tests/test_packaging.py", "scripts/test.sh")
    assert set(wanted) <= names
    assert not [name for name in names if Path(name).suffix in COMPILED]


def test_the_installed_wheel_answers_from_what_ships(installed: Path, tmp_path: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run_installed(installed, "coinfer", "--version", cwd=tmp_path).strip() == version
    where = "import coinfer_ray, coinfer_kernels; print(coinfer_ray.__file__, coinfer_kernels.__file__)"
    for path in run_installed(installed, "python", "-c", where, cwd=tmp_path).split():
        assert Path(path).is_relative_to(installed.parent)
    scenario = ("--model", "alexnet", "--device", "rpi3b+", "--server", "p100", "--link", "3g")
    methods = "all_local,all_server,neurosurgeon"
    printed = run_installed(installed, "coinfer", "compare", *scenario, "--methods", methods, "--json", cwd=tmp_path)
    assert [row["method"] for row in json.loads(printed)] == methods.split(",")


@pytest.mark.slow
def test_the_installed_wheel_optimizes(installed: Path, tmp_path: Path) -> None:
    scenario = ("--model", "alexnet", "--device", "rpi3b+", "--server", "p100", "--link", "3g")
    answer = json.loads(run_installed(installed, "coinfer", "optimize", *scenario, "--json", cwd=tmp_path))
    assert answer["predicted_accuracy"] >= answer["accuracy_floor"]
    assert answer["lower_bound_s"] is None or answer["lower_bound_s"] <= answer["latency_s"]


def test_pre_commit_and_the_workflow_run_what_the_test_script_runs() -> None:
    script = (ROOT / "scripts" / "test.sh").read_text()
    checks = [line.replace('"', "").replace("$bin/", "") for line in re.findall(r'^"\$bin/(?!python).*$', script, re.M)]
    assert len(checks) == 3
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"].removeprefix(".venv-test/bin/") for hook in hooks] == [check.strip() for check in checks]
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    commands = {step["run"] for job in jobs.values() for step in job["steps"] if "run" in step}
    assert {"bash .ci/run", "bash scripts/build_docs.sh"} <= commands
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
