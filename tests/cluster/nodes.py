"""A Ray cluster of two nodes on this machine, started by clusters/two-nodes.sh and ended by its process ids."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "clusters" / "two-nodes.sh"
SMALL_NODE = ("--num-cpus=1", "--object-store-memory=100000000")


def descendants(process: int) -> set[int]:
    """Process ids of the children of ``process``, of theirs, and so on."""
    found = set()
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in task.read_text().split():
            found |= {int(child)} | descendants(int(child))
    return found


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], object], what: str, limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@dataclass
class TwoNodes:
    """``address`` of the head; ``environment`` for processes that hold the cluster's token; ``folder`` of its files.

    ``hosts`` are the nodes' network namespaces and addresses in them, where they have their own; drivers are beside the
    head.
    """

    folder: Path
    environment: dict[str, str]
    hosts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    address: str = ""

    def within(self, role: str) -> list[str]:
        """What a command begins with to run where the node does."""
        return ["ip", "netns", "exec", self.hosts[role][0]] if role in self.hosts else []

    def script(self, role: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``two-nodes.sh`` for one of the two nodes, which stand for two machines."""
        first = {"head": 20100, "worker": 20200}[role]
        settings = {
            "COINFER_CLUSTER_STATE": str(self.folder / role),
            "COINFER_NODE_PORT": str(first),
            "COINFER_WORKER_PORTS": f"{first + 10}-{first + 90}",
        }
        if role in self.hosts:
            settings["COINFER_NODE_ADDRESS"] = self.hosts[role][1]
        command = [*self.within(role), str(SCRIPT), *arguments]
        return subprocess.run(
            command, env=self.environment | settings, capture_output=True, text=True, timeout=120, check=False
        )

    def start(self, role: str) -> None:
        """Start a node; again where Ray gave up waiting for itself, as it does after 30 s of a busy machine."""
        head = ["head", *SMALL_NODE, "--include-dashboard=false", f"--temp-dir={self.folder}/ray"]
        for _ in range(3):
            done = self.script(role, *(head if role == "head" else ["worker", self.address, *SMALL_NODE]))
            if "timed out during startup" not in done.stderr:
                break
        assert done.returncode == 0, done.stderr
        if role == "head":
            log = (self.folder / "head" / "head.log").read_text()
            self.address = log.split("--address='")[1].partition("'")[0]

    def stop(self, role: str) -> None:
        assert self.script(role, "stop").returncode == 0

    def process(self, role: str) -> int:
        return int((self.folder / role / f"{role}.pid").read_text())

    def processes(self, role: str) -> set[int]:
        """The node's own process and all that it has started."""
        return {self.process(role)} | descendants(self.process(role))

    def driver(self, code: str, *arguments: object, **changes: str) -> subprocess.Popen[str]:
        """A Python process that may join the cluster; its working folder is not the checkout."""
        command = [*self.within("head"), sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.Popen(
            command,
            env=self.environment | changes,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def drive(self, code: str, *arguments: object) -> str:
        """Run a driver to its end and return what it printed."""
        with self.driver(code, *arguments) as process:
            try:
                output, errors = process.communicate(timeout=120)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert process.returncode == 0, errors
        return output


@contextmanager
def two_nodes_on(hosts: Mapping[str, tuple[str, str]], **settings: str) -> Iterator[TwoNodes]:
    """A cluster of two nodes with a token, on ``hosts`` (:class:`TwoNodes`; none: on this one); ``settings`` are
    variables of its environment."""
    folder = Path(tempfile.mkdtemp(prefix="coinfer-"))  # longer paths are too long for Ray's sockets
    cluster = TwoNodes(
        folder,
        {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "COINFER_HEAD_PORT": str(free_ports(1)[0]),
            **settings,
        },
        hosts,
    )
    processes: set[int] = set()
    try:
        assert cluster.script("head", "token").returncode == 0
        cluster.start("head")
        cluster.start("worker")
        processes = cluster.processes("head") | cluster.processes("worker")
        yield cluster
    finally:
        for role in ("worker", "head"):
            cluster.stop(role)
        wait_until(lambda: not any(map(alive, processes)), "the nodes' processes end")
        shutil.rmtree(folder, ignore_errors=True)
