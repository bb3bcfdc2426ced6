"""TLS between the nodes: clusters/certificates.sh with clusters/two-nodes.sh, a real cluster and a real sweep."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.nodes import TwoNodes, two_nodes_on
from tests.test_certificates import SCRIPT, context

pytestmark = pytest.mark.slow

SWEEP = """
import json, sys
import coinfer_ray as coinfer
grid = {
    "model": ["alexnet"], "device": ["rpi3b+", "tk1"], "server": ["p100"], "max_loss": [0.02],
    "link": [{"rate_mbps": {"logspace": [0.1, 100, 10]}}],
}
how = {"executor": "local"} if sys.argv[1] == "local" else {"address": sys.argv[1]}
print(json.dumps(coinfer.sweep(grid, solver="exact", chunk=4, **how).to_table().to_pylist(), default=str))
"""
CLI = "import sys; from coinfer_ray.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of this machine, by its addresses."""
    folder = tmp_path_factory.mktemp("tls")
    addresses = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()
    for arguments in (("authority", "tls"), ("machine", "tls", *addresses)):
        subprocess.run(["bash", SCRIPT, *arguments], cwd=folder, check=True, capture_output=True)
    return folder / "tls" / addresses[0]


@pytest.fixture(scope="module")
def cluster(machine: Path) -> Iterator[TwoNodes]:
    said = subprocess.run(
        ["bash", "-c", f"source {machine}/env && env"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    settings = dict(line.split("=", 1) for line in said if line.startswith(("RAY_USE_TLS", "RAY_TLS")))
    with two_nodes_on({}, **settings) as cluster:
        yield cluster


def test_a_sweep_over_tls_gives_the_rows_of_this_process(cluster: TwoNodes) -> None:
    assert cluster.drive(SWEEP, cluster.address) == cluster.drive(SWEEP, "local")


def test_the_heads_port_lets_nobody_in_without_a_certificate(cluster: TwoNodes, machine: Path) -> None:
    host, port = cluster.address.rsplit(":", 1)

    def first_words(of: ssl.SSLContext) -> bytes:
        of.set_alpn_protocols(["h2"])  # what gRPC speaks within TLS; it begins with its settings
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            of.wrap_socket(plain, server_hostname=host) as safe,
        ):
            return safe.recv(9)

    assert len(first_words(context(machine, ssl.PROTOCOL_TLS_CLIENT))) == 9
    try:
        said = first_words(ssl.create_default_context(cafile=machine / "ca.crt"))
    except (ssl.SSLError, ConnectionError):
        said = b""
    assert said == b""


def test_a_command_without_certificates_ends_in_one_line(cluster: TwoNodes, tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("model: [alexnet]\ndevice: [rpi3b+]\nserver: [p100]\nlink: [3g]\nmax_loss: [0.02]\n")
    arguments = ("sweep", grid, "--out", tmp_path / "out", "--address", cluster.address)
    with cluster.driver(CLI, *arguments, RAY_USE_TLS="0") as process:
        output, errors = process.communicate(timeout=180)
    assert process.returncode == 2 and output == ""
    (line,) = errors.splitlines()
    assert line.startswith(f"coinfer: address: the Ray cluster at {cluster.address} speaks TLS; source the env of this")
