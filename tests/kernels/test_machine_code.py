"""Machine code on disk: never stale, never half written, never in the way."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from coinfer_kernels import EnsembleTables, TreeEnsemble, jit, machine_code
from coinfer_kernels.trees import walk
from coinfer_kernels.trees.median import weighted_median

PACKAGE = Path(__file__).parents[2] / "kernels" / "coinfer_kernels"

# The median of three trees, each a leaf: the kernel is in trees.py, what it calls in median.py.
MEDIAN = """
import numpy as np
from coinfer_kernels import EnsembleTables, TreeEnsemble, machine_code
compiled = []
machine_code.on_compile(lambda at: compiled.append(at.function))
leaf = np.full(3, -1)
tables = EnsembleTables(leaf, np.zeros(3), np.arange(3), np.arange(3), np.array([1.0, 2.0, 3.0]), np.arange(3),
                        np.ones(3), True, 0.0, np.zeros(2))
print(TreeEnsemble(tables).predict(np.zeros((1, 2)))[0], len(compiled), machine_code.folder())
"""


def start(package, **environment):
    kept = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "COINFER_CACHE_DIR")}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", MEDIAN],
        env=kept | {"PYTHONPATH": str(package), "NUMBA_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert errors == ""
    median, compiled, folder = out.split()
    return float(median), int(compiled), folder


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "packages" / "coinfer_kernels", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "packages"


def test_an_edited_callee_in_another_file_is_compiled_anew(copy, tmp_path):
    cache = {"COINFER_CACHE_DIR": str(tmp_path / "cache")}
    median, compiled, folder = finish(start(copy, **cache))
    assert median == 2.0
    assert compiled > 0
    assert Path(folder).parent == tmp_path / "cache"
    assert finish(start(copy, **cache)) == (2.0, 0, folder)
    file = copy / "coinfer_kernels" / "trees" / "median.py"
    source = file.read_text()
    assert "0.5 * total" in source
    file.write_text(source.replace("0.5 * total", "0.9 * total"))
    median, compiled, other = finish(start(copy, **cache))
    assert median == 3.0
    assert compiled > 0
    assert other != folder
    assert not list(copy.rglob("*.nb[ic]"))  # nothing is written beside the sources


def test_of_two_processes_at_once_one_compiles(copy, tmp_path):
    processes = [start(copy, COINFER_CACHE_DIR=str(tmp_path / "cache")) for _ in range(2)]
    found = [finish(process) for process in processes]
    assert [median for median, *_ in found] == [2.0, 2.0]
    assert sorted(compiled > 0 for _, compiled, _ in found) == [False, True]
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_where_the_cache_cannot_be_written_the_temporary_folder_serves(copy, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    places = {"COINFER_CACHE_DIR": str(tmp_path / "file" / "cache"), "TMPDIR": str(tmp_path / "temporary")}
    median, _, folder = finish(start(copy, **places))
    assert median == 2.0
    assert Path(folder).is_relative_to(tmp_path / "temporary")
    assert Path(folder).parent.stat().st_mode & 0o077 == 0
    assert finish(start(copy, **places)) == (2.0, 0, folder)


@pytest.fixture
def ensemble():
    leaf = np.full(3, -1)
    values = np.array([1.0, 2.0, 3.0])
    return TreeEnsemble(
        EnsembleTables(
            leaf, np.zeros(3), np.arange(3), np.arange(3), values, np.arange(3), np.ones(3), True, 0.0, np.zeros(2)
        )
    )


@pytest.fixture
def cold(monkeypatch, tmp_path):
    """A cache of its own, and a kernel as a new process has it."""
    kept = dict(walk._predict_rows.overloads)
    walk._predict_rows._reset_overloads()
    monkeypatch.setenv("COINFER_CACHE_DIR", str(tmp_path / "cache"))
    machine_code.folder.cache_clear()
    yield machine_code.folder
    machine_code.folder.cache_clear()
    for compiled in kept.values():
        if compiled.signature.args not in walk._predict_rows.overloads:
            walk._predict_rows.add_overload(compiled)


def test_without_a_place_every_process_compiles(ensemble, cold, monkeypatch):
    monkeypatch.setattr(machine_code, "_user_folder", lambda: None)
    monkeypatch.setattr(machine_code, "_temporary_folder", lambda: None)
    assert cold() is None
    assert ensemble.predict(np.zeros((1, 2))) == [2.0]


def test_a_damaged_file_is_written_anew(ensemble, cold):
    assert ensemble.predict(np.zeros((1, 2))) == [2.0]
    (file,) = cold().glob("walk._predict_rows-*.code")
    whole = file.read_bytes()
    for damaged in (b"", whole[:1000], whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damaged)
        walk._predict_rows._reset_overloads()
        assert ensemble.predict(np.zeros((1, 2))) == [2.0]
        assert len(file.read_bytes()) > 1000
        assert file.read_bytes() != damaged


def test_a_folder_that_vanishes_is_no_failure(ensemble, cold):
    shutil.rmtree(cold())
    assert ensemble.predict(np.zeros((1, 2))) == [2.0]


def test_what_is_compiled_is_reported(ensemble, cold):
    seen = []
    end = machine_code.on_compile(seen.append)
    ensemble.predict(np.zeros((1, 2)))
    end()
    assert next(at.function for at in seen if not at.done) == "walk._predict_rows"
    assert seen[-1].function == "walk._predict_rows"
    assert seen[-1].done
    assert seen[-1].functions - seen[0].functions == sum(at.done for at in seen)
    assert [at.seconds for at in seen] == sorted(at.seconds for at in seen)
    walk._predict_rows._reset_overloads()
    count = len(seen)
    ensemble.predict(np.zeros((1, 2)))
    assert len(seen) == count


def test_old_folders_go_and_nothing_else(tmp_path):
    ours, recent, other = (tmp_path / name for name in ("kernels-" + "0" * 20, "kernels-" + "1" * 20, "kernels-mine"))
    mixed, days = tmp_path / ("kernels-" + "2" * 20), 86400
    for folder in (ours, recent, other, mixed):
        folder.mkdir()
        for name in ("used", "a.code", "a.lock", ".a.code.x.tmp"):
            (folder / name).touch()
    (mixed / "letter.txt").touch()
    (tmp_path / ("kernels-" + "3" * 20)).symlink_to(other)
    now = (recent / "used").stat().st_mtime
    os.utime(recent / "used", (now + 9 * days, now + 9 * days))
    machine_code.prune(tmp_path, now + 30 * days)
    assert not ours.exists()
    assert (recent / "a.code").exists()
    assert (other / "a.code").exists()
    assert [file.name for file in mixed.iterdir()] == ["letter.txt"]


def test_a_function_from_elsewhere_is_not_kept(cold):
    @jit.kernel
    def doubled(x: float) -> float:
        return 2 * x

    assert doubled(2.0) == 4.0
    assert not list(cold().glob("*.code"))


def test_compiled_code_from_elsewhere_may_call_a_part(cold):
    @numba.njit
    def median(values, weights):
        return weighted_median(values, weights)

    assert median(np.array([3.0, 1.0, 2.0]), np.ones(3)) == 2.0


def test_a_literal_argument_is_compiled_for_no_second_time():
    @jit.inner
    def scaled(x: float, by: int, negative: bool) -> float:
        return -by * x if negative else by * x

    @jit.kernel
    def total(x: float, by: int) -> float:
        return scaled(x, by, True) + scaled(x, 2, False) + scaled(x, by, by > 3)

    assert total(1.5, 4) == -6.0 + 3.0 - 6.0
    assert len(scaled.signatures) == 1
