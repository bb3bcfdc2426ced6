"""What may happen to a sweep on a real machine: SIGTERM, a full disk, a folder that turns read-only, workers without a
driver. In each the rows in the end are the same. ``scripts/faults.py`` does more of it to more commands."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from coinfer_ray import open_sweep
from coinfer_ray.cli import explain
from coinfer_ray.errors import InputError
from coinfer_ray.runtime.files import write_whole
from coinfer_ray.runtime.stores import Folder
from coinfer_ray.sweeps.manifest import Manifest
from coinfer_ray.sweeps.sweep import sweep
from tests.cluster.nodes import alive, descendants, wait_until
from tests.conftest import REPOSITORY
from tests.disturbed import COINFER, Trial, mount, mount_small, rows_of_sweep, shifted_clock, unmount
from tests.synthetic import write_synthetic_records
from tests.test_docs import load

GRID = {
    "model": ["alexnet"],
    "device": ["rpi3b+", "tk1"],
    "server": ["p100"],
    "link": ["3g", "4g", "wifi", {"rate_mbps": [0.1, 1, 10]}],
    "max_loss": [0.1, 0.2],
    "confidence": [None],
}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_records(tmp_path_factory.mktemp("records") / "alexnet.parquet")


def command(records: Path, out: Path, *options: str) -> list[str]:
    grid = records.with_name("grid.yaml")
    grid.write_text(json.dumps(GRID))
    asked = ["--records", str(records), "--solver", "paper", "--chunk", "2", "--executor", "local", *options]
    return [sys.executable, "-c", COINFER, "sweep", str(grid), "--out", str(out), *asked]


def wait_for(condition: object, process: subprocess.Popen[str]) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.01)


def test_sigterm_ends_a_sweep_that_then_goes_on(records: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(command(records, out), stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: list(out.glob("*/chunk-*.parquet")), process)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    last = said.splitlines()[-1]
    assert last == "coinfer: ended by SIGTERM; run a long command again to go on where it stopped"
    assert "Traceback" not in said and "SIGTERM received" not in said
    before = Manifest.read(out)
    assert before.files and not before.complete and not list(before.damaged())
    done = {path: path.stat().st_mtime_ns for path in out.glob("*/chunk-*.parquet") if path.name in str(before.files)}

    subprocess.run(command(records, out), check=True, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    undisturbed = sweep(GRID, solver="paper", records=records, executor="local", quiet=True).to_table()
    assert open_sweep(out, check=True).to_table(undisturbed.schema.names).equals(undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for some chunks."""
    place = tmp_path / "small"
    if not mount_small(place, "128k"):
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield place
    finally:
        unmount(place)


def test_a_full_disk_is_one_line_and_room_is_enough_to_go_on(records: Path, small_disk: Path) -> None:
    ballast, out = small_disk / "ballast", small_disk / "out"
    ballast.write_bytes(bytes(48 * 1024))
    ended = subprocess.run(command(records, out), capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    # A file of the sweep's did not fit, or what claims the folder.
    told = f"coinfer: out: no space is left for {out}; make room and run again", f"coinfer: no space is left for {out}/"
    assert ended.stderr.splitlines()[-1].startswith(told)
    assert "Traceback" not in ended.stderr
    assert not list(Manifest.read(out).damaged())
    ballast.unlink()
    assert mount("-o", "remount,size=1m", small_disk)
    subprocess.run(command(records, out), check=True, capture_output=True)
    undisturbed = sweep(GRID, solver="paper", records=records, executor="local", quiet=True).to_table()
    assert open_sweep(out, check=True).to_table(undisturbed.schema.names).equals(undisturbed)


def test_a_folder_that_turns_read_only_is_one_line_and_the_sweep_goes_on_later(records: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(command(records, out), stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: list(out.glob("*/chunk-*.parquet")), process)
        # The lock is open below, so that the file system itself cannot change: a mount over it can.
        mounted = os.geteuid() == 0 and mount("--bind", out, out) and mount("-o", "remount,bind,ro", out)
        if not mounted:
            process.kill()
            pytest.skip("a read-only mount is not allowed here")
        try:
            _, said = process.communicate(timeout=60)
        finally:
            unmount(out)
    assert process.returncode == 2, said
    last = said.splitlines()[-1]
    assert last.startswith(f"coinfer: out: {out}/") and "Traceback" not in said
    assert last.endswith("cannot be written (Read-only file system); run again when it can be, what is done stays")
    subprocess.run(command(records, out), check=True, capture_output=True)
    undisturbed = sweep(GRID, solver="paper", records=records, executor="local", quiet=True).to_table()
    assert open_sweep(out, check=True).to_table(undisturbed.schema.names).equals(undisturbed)


def refusing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let no file be synchronised."""

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("coinfer_ray.runtime.files.os.fsync", refuse)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_what_a_disk_refuses_names_the_file_and_is_no_fault_of_ours(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, number)
    reason = os.strerror(number)
    with pytest.raises(OSError) as caught:
        write_whole(tmp_path / "a", lambda temporary: temporary.touch())
    assert caught.value.filename == str(tmp_path / "a")
    assert explain(caught.value) == (
        2,
        f"{tmp_path}/a: {reason}; mend that and run again, what is done stays",
    )
    with pytest.raises(InputError) as refused:
        Folder(tmp_path).write("b", b"")
    assert str(refused.value).startswith(f"out: {tmp_path}/b cannot be written ({reason}); ")
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_with_a_program_is_still_a_fault() -> None:
    assert explain(OSError(errno.EBADF, "Bad file descriptor", "a"))[0] == 1


ORPHANS = """
import sys, time
from pathlib import Path
from coinfer_ray.runtime.executors import ProcessExecutor
from tests.test_faults import start_waiting
with ProcessExecutor(2) as executor:
    list(executor.run(start_waiting, {"folder": sys.argv[1]}, [(0, 0), (1, 1)]))
"""


def start_waiting(shared: dict[str, str], context: object) -> object:
    def work(task: int) -> None:
        (Path(shared["folder"]) / f"began-{task}").touch()
        time.sleep(600)

    return work


def test_workers_of_several_processes_end_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", ORPHANS, str(tmp_path)], env=environment) as driver:
        try:
            wait_until(lambda: len(list(tmp_path.glob("began-*"))) == 2, "both workers are at work")
            workers = descendants(driver.pid)
        finally:
            driver.kill()
    wait_until(lambda: not any(map(alive, workers)), "the workers end")


def test_a_machine_too_busy_for_ray_is_one_line_after_two_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from coinfer_ray.runtime.executors.ray_executor import RayExecutor

    tries = []

    def time_out(*_: object, **__: object) -> None:
        tries.append(1)
        raise Exception("The current node timed out during startup. This could happen because the raylet failed")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", time_out)
    with pytest.raises(InputError, match=r"did not start in time, twice: .* --executor local needs none"):
        RayExecutor(workers=1).__enter__()
    assert len(tries) == 2


HEAD = """
import socket, sys, time
import coinfer_ray.runtime.executors.around_ray as around_ray
around_ray.ASK_S, around_ray.SILENT_S = 0.1, 0.5
with socket.create_server(("127.0.0.1", 0)) as server:
    port = server.getsockname()[1]
    with around_ray.watched_head(f"127.0.0.1:{port}", lambda: sys.argv[1] == "joined"):
        time.sleep(2)
        print("it was there", flush=True)
        server.close()
        time.sleep(3 if sys.argv[1] == "left" else 60)
print("all is well")
"""


@pytest.mark.parametrize("state", ["joined", "left"])
def test_a_head_that_is_gone_ends_the_command_in_one_line(state: str) -> None:
    """While it is joined; Ray's own calls return no more then."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", HEAD, state]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    if state == "left":
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "it was there\nall is well\n", "")
        return
    assert (ended.returncode, ended.stdout) == (2, "it was there\n")
    assert ended.stderr.startswith("coinfer: executor: the Ray cluster's head at 127.0.0.1:")
    assert ended.stderr.endswith("(Connection refused); when it does, run again: what is done stays\n")
    assert len(ended.stderr.splitlines()) == 1


DROPPED = """
import ctypes, os, signal, sys, time
from coinfer_ray.cli.scripts import run_script
number = int(sys.argv[1])
told = []
def answer():
    if not told:
        told.append(os.kill(os.getpid(), number))
        time.sleep(10)  # where the signal arrives
call_back = ctypes.CFUNCTYPE(None)(answer)
def main():
    call_back()
    time.sleep(300)
run_script(main)
"""


@pytest.mark.parametrize(("number", "status", "told"), [(2, 130, "interrupted"), (15, 143, "ended by SIGTERM")])
def test_a_signal_that_meets_a_callback_from_c_is_not_lost(number: int, status: int, told: str) -> None:
    """As the compiler of kernels calls back; Python drops what is raised there."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", DROPPED, str(number)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (status, f"-c: {told}\n")


@pytest.mark.parametrize(("number", "status", "told"), [(2, 130, "interrupted"), (15, 143, "ended by SIGTERM")])
def test_a_driver_that_is_to_end_does_not_wait_for_tasks(number: int, status: int, told: str, tmp_path: Path) -> None:
    """Whether it alone is told or, as by a terminal's Ctrl-C, its workers as well. Their tasks take 10 minutes."""
    main = ORPHANS.replace("with ", "def main():\n  with ").replace("    list", "      list")
    code = f"{main}\nfrom coinfer_ray.cli.scripts import run_script\nif __name__ == '__main__':\n  run_script(main)\n"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as driver:
        try:
            wait_until(lambda: len(list(tmp_path.glob("began-*"))) == 2, "both workers are at work")
            workers = descendants(driver.pid)
            os.killpg(driver.pid, number) if number == signal.SIGINT else driver.send_signal(number)
            _, said = driver.communicate(timeout=60)
        finally:
            driver.kill()
    assert (driver.returncode, said) == (status, f"-c: {told}\n")
    wait_until(lambda: not any(map(alive, workers)), "the workers end")


def test_a_clock_that_is_set_back_changes_nothing(records: Path, tmp_path: Path) -> None:
    """The wall clock of the command alone, in the midst of it; its files' times come from the kernel's."""
    variables = shifted_clock(tmp_path)
    if variables is None:
        pytest.skip("no C compiler here")
    asked = [sys.executable, "-c", "import time; print(time.time())"]
    (tmp_path / "shift").write_text("-3600")
    told = subprocess.run(asked, env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    assert time.time() - float(told.stdout) > 3000  # the clock is really another
    (tmp_path / "shift").unlink()
    trial = Trial("sweep", lambda out: command(records, out)[3:], rows_of_sweep, "*/chunk-*.parquet", os.environ)
    running = trial.begin(tmp_path / "out", **variables)
    running.wait_for(1)
    (tmp_path / "shift").write_text("-3600")
    assert running.end()[0] == 0
    undisturbed = sweep(GRID, solver="paper", records=records, executor="local", quiet=True).to_table()
    assert rows_of_sweep(tmp_path / "out").select(undisturbed.schema.names).equals(undisturbed)


@pytest.fixture(scope="module")
def table() -> ModuleType:
    return load(REPOSITORY / "scripts" / "faults.py")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["sweep", "cluster", "collect"])
def test_the_table_of_faults(table: ModuleType, what: str) -> None:
    rows = list(table.rows([what]))
    assert len(rows) >= 3
    assert [row for row in rows if row.equal is not True and row.tried != "not possible here"] == []
