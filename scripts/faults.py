"""What may happen to a long command on a real machine, done to one, and whether its results are the same in the end.

    python scripts/faults.py [--only NAME ...] [--json]

A sweep in this process, the same sweep on a real Ray cluster of two nodes, and a collection of records are run once
undisturbed and then once for each fault. Where the command ends, it must say so in one line, and is run again. For each
fault a row: what was tried, what was seen, how it recovered, how many seconds more than undisturbed it all took (the
second start included), and whether all rows are equal. --only names faults, or what they happen to: sweep, cluster,
collect. The exit status is 1 where any rows differ.

As root the two nodes are network namespaces with a link between them, which can then be cut; else both are on loopback.
Nothing but processes started here is ended, by their ids.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]  # what a fault is, and what two nodes are, is said by the tests
from tests.cluster.nodes import (  # noqa: E402
    TwoNodes,
    alive,
    descendants,
    two_nodes_on,
    wait_until,
)
from tests.disturbed import (  # noqa: E402
    LIMIT_S,
    Row,
    Running,
    Trial,
    mount,
    mount_small,
    rows_of_collection,
    rows_of_sweep,
    shifted_clock,
    unmount,
)

RATES, CHUNK = 24, 2  # scenarios of a sweep are twice as many as rates
CANDIDATES = 4
SWEEP_ROOM_KB, COLLECT_ROOM_KB = 80, 80  # less than what each of them writes
CUT_S = 30
HEAD, WORKER = "10.77.0.1", "10.77.0.2"
GRID = {
    "model": ["alexnet"],
    "device": ["rpi3b+", "tk1"],
    "server": ["p100"],
    "link": [{"rate_mbps": {"logspace": [0.1, 100, RATES]}}],
    "max_loss": [0.02],
    "confidence": [None],
}
TINY = [
    *("--model", "tests.training.own_networks:Small", "--data", "digits", "--candidates", str(CANDIDATES)),
    *("--base-images", "256", "--prunable-images", "128", "--fine-tune-images", "256", "--end-to-end-images", "512"),
    *("--validation-images", "50", "--test-images", "50", "--any-base"),
]
Fault = Callable[[Trial, Path], Row]


# ------------------------------------------------------------------------------------------------- of any command


def hurt(running: Running, name: str, number: signal.Signals) -> Row:
    """Send the command a signal after its first pieces."""
    running.wait_for(2)
    running.process.send_signal(number)
    return running.trial.finish(running, name, f"{number.name} to the command")


def kill_driver(trial: Trial, out: Path) -> Row:
    return hurt(trial.begin(out), "driver killed", signal.SIGKILL)


def terminate_driver(trial: Trial, out: Path) -> Row:
    return hurt(trial.begin(out), "SIGTERM", signal.SIGTERM)


def interrupt_driver(trial: Trial, out: Path) -> Row:
    return hurt(trial.begin(out), "SIGINT", signal.SIGINT)


def two_drivers(trial: Trial, out: Path) -> Row:
    first = trial.begin(out)
    # Early: the second takes its time to start.
    wait_until((out / "_run.json").exists, "the command holds its folder", LIMIT_S)
    status, said = trial.begin(out).end()
    if status != 2 or "is in use by process" not in said:
        raise RuntimeError(f"the second command was not refused: status {status}: {said}")
    row = trial.finish(first, "two drivers", "the same command again while it runs")
    seen = re.sub(r"process \d+ on [^;]*", "process N on this machine", said.removeprefix("coinfer: "))
    return Row(**{**asdict(row), "seen": f"the second: {seen}".replace(str(out), "OUT")})


# ------------------------------------------------------------------------------------------- of a disk, and a clock


def full_disk(trial: Trial, out: Path) -> Row:
    small = out.with_name("small")
    if not mount_small(small, f"{trial.room_kb}k"):
        return not_here("disk full", trial, "a small file system cannot be mounted")
    try:

        def make_room() -> None:
            mount("-o", "remount,size=64m", small)

        tried = f"{trial.room_kb} kB of room, then 64 MB"
        with trial.ended():
            return trial.finish(trial.begin(small / "out"), "disk full", tried, make_room)
    finally:
        unmount(small)


def read_only(trial: Trial, out: Path) -> Row:
    running = trial.begin(out)
    running.wait_for(2)
    # The lock is open below, so that the file system itself cannot change: one over it can.
    with ExitStack() as mounted, trial.ended():  # what runs there is ended before it is unmounted
        bound = os.geteuid() == 0 and mount("--bind", out, out)
        if bound:
            mounted.callback(unmount, out)
        if not (bound and mount("-o", "remount,bind,ro", out)):
            return not_here("folder read-only", trial, "a read-only mount is not allowed")
        return trial.finish(running, "folder read-only", "a read-only mount over the folder", mounted.close)


def clock_back(trial: Trial, out: Path) -> Row:
    variables = shifted_clock(out.parent)
    if variables is None:
        return not_here("clock set back", trial, "no C compiler, for a clock of the command's own")
    running = trial.begin(out, **variables)
    running.wait_for(2)
    Path(variables["SHIFT_FILE"]).write_text("-3600")
    return trial.finish(running, "clock set back", "the command's wall clock 1 h back")


def flip(trial: Trial, out: Path) -> Path:
    """Flip a bit of a finished file, and say which."""
    path = min(out.glob(trial.pattern))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    return path


def flipped_bit(trial: Trial, out: Path) -> Row:
    running = trial.begin(out)
    running.wait_for(4)
    running.process.send_signal(signal.SIGTERM)
    tried = "SIGTERM, then a bit of a finished file"
    return trial.finish(running, "flipped bit", tried, lambda: flip(trial, out) and None)


def flipped_record(trial: Trial, out: Path) -> Row:
    """A collection goes on only when who runs it has removed what is damaged: a training is not repeated unasked."""
    running = trial.begin(out)
    running.wait_for(2)
    running.process.send_signal(signal.SIGTERM)
    seen = ""

    def find() -> None:
        nonlocal seen
        path = flip(trial, out)
        status, said = trial.begin(out).end()
        if status != 2 or path.name not in said:
            raise RuntimeError(f"{path} was damaged and is not named: status {status}: {said}")
        seen = f"status {status}: {said.removeprefix('coinfer: ')}".replace(str(out), "OUT")
        path.unlink()

    row = trial.finish(running, "flipped bit", "SIGTERM, then a bit of a finished record", find)
    return Row(**{**asdict(row), "seen": seen, "recovered": "by removing it and running again"})


# ------------------------------------------------------------------------------------------------------ of workers


def kill_worker_process(trial: Trial, out: Path) -> Row:
    """Of several processes on one machine."""
    running = trial.begin(out)
    running.wait_for(1)
    workers = [child for child in descendants(running.process.pid) if "spawn_main" in command_of(child)]
    os.kill(workers[0], signal.SIGKILL)
    return trial.finish(running, "worker killed", "kill -9 of a worker")


def orphans(trial: Trial, out: Path) -> Row:
    """What several processes on one machine do when the command is there no more."""
    running = trial.begin(out)
    running.wait_for(1)
    children = descendants(running.process.pid)
    running.process.kill()
    row = trial.finish(running, "driver killed", "kill -9 of the command")
    left = sum(map(alive, children))
    return Row(**{**asdict(row), "seen": f"{row.seen}; {left} of {len(children)} workers were left"})


def kill_worker(cluster: TwoNodes, trial: Trial, out: Path) -> Row:
    running = trial.begin(out)
    running.wait_for(2)
    workers = [child for child in cluster.processes("worker") if "ray::Worker" in command_of(child)]
    os.kill(workers[0], signal.SIGKILL)
    return trial.finish(running, "worker killed", "kill -9 of a worker")


def kill_node(cluster: TwoNodes, trial: Trial, out: Path) -> Row:
    running = trial.begin(out)
    running.wait_for(2)
    kill_all(cluster.processes("worker"))
    row = trial.finish(running, "node killed", "kill -9 of all processes of the second node")
    restart(cluster, "worker")
    return row


def stop_head(cluster: TwoNodes, trial: Trial, out: Path) -> Row:
    running = trial.begin(out)
    running.wait_for(2)
    kill_all(cluster.processes("head"))
    spent = 0.0

    def start_again() -> float:
        nonlocal spent
        began = time.monotonic()
        restart(cluster, "worker", "head")
        spent = time.monotonic() - began
        return spent

    row = trial.finish(running, "head killed", "kill -9 of the first node, with the cluster's own store", start_again)
    if row.recovered == "by itself":
        start_again()
        return row
    seen = f"{row.seen}; starting both nodes again took {spent:.0f} s, not counted"
    return Row(**{**asdict(row), "seen": seen})


def cut_link(cluster: TwoNodes, trial: Trial, out: Path) -> Row:
    if not cluster.hosts:
        return not_here("link cut", trial, "no network namespaces")
    running = trial.begin(out)
    running.wait_for(2)
    link("down")
    try:
        end = time.monotonic() + CUT_S
        while running.process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
    finally:
        link("up")
    row = trial.finish(running, "link cut", f"the link between the nodes down for {CUT_S} s")
    restart(cluster, "worker")  # Ray takes no node back that it has given up
    return row


# ------------------------------------------------------------------------------------------------------- all of it


SWEEP: tuple[Fault, ...] = (
    kill_driver,
    terminate_driver,
    interrupt_driver,
    two_drivers,
    full_disk,
    read_only,
    clock_back,
    flipped_bit,
)
CLUSTER: tuple[Callable[[TwoNodes, Trial, Path], Row], ...] = (kill_worker, kill_node, cut_link, stop_head)
COLLECT: tuple[Fault, ...] = (
    orphans,
    kill_worker_process,
    terminate_driver,
    interrupt_driver,
    two_drivers,
    full_disk,
    read_only,
    clock_back,
    flipped_record,
)


def not_here(fault: str, trial: Trial, why: str) -> Row:
    return Row(fault, trial.name, "not possible here", why, "-")


def command_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def kill_all(processes: set[int]) -> None:
    for process in processes:
        if alive(process):
            os.kill(process, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, processes)), "the node's processes end")


def restart(cluster: TwoNodes, *roles: str) -> None:
    """End what is left of nodes, and start them again, the head first."""
    for role in roles:
        cluster.stop(role)
    for role in reversed(roles):
        cluster.start(role)


def ip(*words: str) -> bool:
    try:
        return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def link(state: str) -> None:
    if not ip("-n", namespaces()[1], "link", "set", "veth", state):
        raise RuntimeError(f"the link between the two namespaces cannot be set {state}")


def namespaces() -> tuple[str, str]:
    return f"coinfer-{os.getpid()}-a", f"coinfer-{os.getpid()}-b"


@contextmanager
def two_hosts() -> Iterator[dict[str, tuple[str, str]]]:
    """Two network namespaces that see each other; none where they are not allowed."""
    first, second = namespaces()
    if os.geteuid() != 0:
        yield {}
        return
    try:
        joined = ip("netns", "add", first) and ip("netns", "add", second)
        pair = ("type", "veth", "peer", "name", "veth", "netns", second)
        joined = joined and ip("link", "add", "veth", "netns", first, *pair)
        for name, address in ((first, HEAD), (second, WORKER)):
            joined = joined and ip("-n", name, "addr", "add", f"{address}/24", "dev", "veth")
            joined = joined and all(ip("-n", name, "link", "set", each, "up") for each in ("lo", "veth"))
        yield {"head": (first, HEAD), "worker": (second, WORKER)} if joined else {}
    finally:
        for name in (first, second):
            ip("netns", "delete", name)


def sweep_trial(folder: Path, cluster: TwoNodes | None = None) -> Trial:
    grid = folder / "grid.yaml"
    grid.write_text(json.dumps(GRID))
    where = ["--executor", "local"] if cluster is None else ["--executor", "ray", "--address", cluster.address]

    def command(out: Path) -> list[str]:
        return ["sweep", str(grid), "--out", str(out), "--solver", "paper", "--chunk", str(CHUNK), *where]

    name = "sweep" if cluster is None else "sweep, cluster"
    inherited = here() if cluster is None else cluster.environment
    before = () if cluster is None else tuple(cluster.within("head"))
    return Trial(name, command, rows_of_sweep, "*/chunk-*.parquet", inherited, before, SWEEP_ROOM_KB)


def collect_trial() -> Trial:
    def command(out: Path) -> list[str]:
        return ["collect", *TINY, "--out", str(out), "--executor", "processes", "--workers", "2"]

    inherited = {**here(), "OMP_NUM_THREADS": "2"}
    return Trial("collect", command, rows_of_collection, "candidate-*.parquet", inherited, room_kb=COLLECT_ROOM_KB)


def here() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def rows(only: Sequence[str]) -> Iterator[Row]:
    """A row for each fault that is asked for."""

    def asked(what: str, faults: Sequence[Callable[..., Row]]) -> list[Callable[..., Row]]:
        return [fault for fault in faults if not only or what in only or fault.__name__ in only]

    with tempfile.TemporaryDirectory(prefix="coinfer-faults-") as place:
        folder = Path(place)

        def each(faults: Sequence[Fault], trial: Trial, expected: object = None) -> Iterator[Row]:
            trial.measure(folder / f"{trial.name}-undisturbed", warm=trial.name != "collect")  # it compiles nothing
            if expected is not None and trial.expected != expected:
                raise RuntimeError(f"{trial.name}: undisturbed, and other rows already")
            for number, fault in enumerate(faults):
                own = folder / f"{trial.name}-{number}"
                own.mkdir()
                with trial.ended():
                    yield fault(trial, own / "out")

        alone = sweep_trial(folder)
        if found := asked("sweep", SWEEP):
            yield from each(found, alone)
        on_nodes = [*asked("cluster", CLUSTER), *asked("cluster", (terminate_driver, kill_driver))]
        if on_nodes:
            if alone.expected is None:
                alone.measure(folder / "alone")
            with ExitStack() as stack:
                cluster = stack.enter_context(two_nodes_on(stack.enter_context(two_hosts())))
                faults = [
                    fault if fault in SWEEP else lambda *given, fault=fault: fault(cluster, *given)  # type: ignore[misc]
                    for fault in on_nodes
                ]
                yield from each(faults, sweep_trial(folder, cluster), alone.expected)
        if found := asked("collect", COLLECT):
            yield from each(found, collect_trial())


def main() -> int:
    # Two commands may meet the same fault.
    known = list(
        dict.fromkeys(["sweep", "cluster", "collect", *(each.__name__ for each in (*SWEEP, *CLUSTER, *COLLECT))])
    )
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=known, metavar="NAME", default=[], help=", ".join(known))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # mounts, nodes and namespaces are taken down all the same
    if not given.json:
        print("| fault | of | tried | seen | recovered | seconds lost | rows equal |\n| - | - | - | - | - | - | - |")
    found = []
    for row in rows(given.only):
        found.append(row)
        if not given.json:
            lost = "-" if row.lost_s is None else f"{row.lost_s:.0f}"
            equal = {None: "-", True: "yes", False: "**no**"}[row.equal]
            print(
                f"| {row.fault} | {row.run} | {row.tried} | {row.seen} | {row.recovered} | {lost} | {equal} |",
                flush=True,
            )
    if given.json:
        print(json.dumps([asdict(row) for row in found]))
    return int(any(row.equal is False for row in found))


if __name__ == "__main__":
    sys.exit(main())
