"""TLS between nodes: clusters/certificates.sh makes machines that trust each other and nobody else, and a command that
does not speak it with a cluster that does is told so."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from coinfer_ray.errors import InputError
from coinfer_ray.runtime.executors.tls import check_tls, speaks_tls

SCRIPT = Path(__file__).parents[1] / "clusters" / "certificates.sh"


def script(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two machines of an authority ``tls``, and one of another, ``other``, by the same names."""
    folder = tmp_path_factory.mktemp("certificates")
    for authority, names in (("tls", ("127.0.0.1", "node-b")), ("other", ("127.0.0.1",))):
        assert script(folder, "authority", authority).returncode == 0
        for name in names:
            made = script(folder, "machine", authority, name)
            assert made.returncode == 0, made.stderr
    return folder


def context(machine: Path, side: int) -> ssl.SSLContext:
    """As Ray's gRPC has it: each side shows its certificate, and asks for the other's."""
    made = ssl.SSLContext(side)
    made.load_cert_chain(machine / "node.crt", machine / "node.key")
    made.load_verify_locations(machine / "ca.crt")
    made.verify_mode = ssl.CERT_REQUIRED
    return made


@contextmanager
def server(machine: Path) -> Iterator[int]:
    """A port where whoever is trusted is greeted, once."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            with suppress(ssl.SSLError, OSError):  # who is not trusted is told nothing
                accepted, _ = listening.accept()
                with context(machine, ssl.PROTOCOL_TLS_SERVER).wrap_socket(accepted, server_side=True) as safe:
                    safe.sendall(b"welcome")

        thread = threading.Thread(target=greet)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()


def greeting(port: int, of: ssl.SSLContext, name: str) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        of.wrap_socket(plain, server_hostname=name) as safe,
    ):
        return safe.recv(100)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_machines_of_one_authority_trust_each_other(machines: Path, name: str) -> None:
    with server(machines / "tls/127.0.0.1") as port:
        assert greeting(port, context(machines / "tls/node-b", ssl.PROTOCOL_TLS_CLIENT), name) == b"welcome"


def test_a_certificate_of_another_authority_is_not_trusted(machines: Path) -> None:
    with server(machines / "tls/127.0.0.1") as port, pytest.raises(ssl.SSLCertVerificationError):
        greeting(port, context(machines / "other/127.0.0.1", ssl.PROTOCOL_TLS_CLIENT), "127.0.0.1")


def test_who_shows_no_certificate_is_turned_away(machines: Path) -> None:
    nobody = ssl.create_default_context(cafile=machines / "tls/ca.crt")
    with server(machines / "tls/127.0.0.1") as port, pytest.raises((ssl.SSLError, ConnectionError)):
        greeting(port, nobody, "127.0.0.1")


def test_a_machine_is_not_trusted_by_a_name_that_is_not_its_own(machines: Path) -> None:
    with server(machines / "tls/127.0.0.1") as port, pytest.raises(ssl.SSLCertVerificationError, match="node-b"):
        greeting(port, context(machines / "tls/node-b", ssl.PROTOCOL_TLS_CLIENT), "node-b")


def test_env_is_right_wherever_the_folder_lies(machines: Path, tmp_path: Path) -> None:
    copied = tmp_path / "a place"
    subprocess.run(["cp", "-r", machines / "tls/node-b", copied], check=True)
    shown = subprocess.run(
        ["bash", "-c", 'source "$1/env" && env', "bash", str(copied)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {line for line in shown if line.startswith(("RAY_TLS", "RAY_USE_TLS"))} == {
        "RAY_USE_TLS=1",
        f"RAY_TLS_SERVER_CERT={copied}/node.crt",
        f"RAY_TLS_SERVER_KEY={copied}/node.key",
        f"RAY_TLS_CA_CERT={copied}/ca.crt",
    }


def test_keys_are_for_their_owner_alone_and_the_authoritys_stays(machines: Path) -> None:
    assert {path.name for path in (machines / "tls/node-b").iterdir()} == {"ca.crt", "node.crt", "node.key", "env"}
    for key in (machines / "tls/ca.key", machines / "tls/node-b/node.key"):
        assert key.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "usage: certificates.sh authority FOLDER | machine FOLDER ADDRESS"),
        (("authority",), "authority needs one folder"),
        (("authority", "tls"), "tls/ca.key exists already"),
        (("machine", "tls"), "machine needs the authority's folder and an address"),
        (("machine", "nowhere", "10.0.0.1"), "no nowhere/ca.key; make it with 'certificates.sh authority nowhere'"),
        (("machine", "tls", "node-b"), "tls/node-b exists already"),
        (("machine", "tls", "a,DNS:b"), "'a,DNS:b' is no address or name of a machine"),
        (("machine", "tls", "10.0.0.1", "../b"), "'../b' is no address or name of a machine"),
        (("machine", "tls", "1.2.3"), "the certificate of 1.2.3: "),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(machines: Path, arguments: tuple[str, ...], told: str) -> None:
    before = sorted(machines.rglob("*"))
    done = script(machines, *arguments)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"certificates.sh: {told}")
    assert sorted(machines.rglob("*")) == before


@contextmanager
def answering(answer: bytes | None) -> Iterator[int]:
    """A port where whoever comes is told ``answer`` in the clear; None: the line is cut at once."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer_once() -> None:
            accepted, _ = listening.accept()
            with accepted, suppress(OSError):
                if answer is not None:
                    accepted.sendall(answer)
                    accepted.recv(1 << 16)

        thread = threading.Thread(target=answer_once)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


def test_whether_a_port_speaks_tls(machines: Path) -> None:
    with server(machines / "tls/127.0.0.1") as port:
        assert speaks_tls("127.0.0.1", port) is True
    http2_settings = b"\0\0\0\4\0\0\0\0\0"
    for answer in (http2_settings, b"HTTP/1.1 400 Bad Request\r\n\r\n", None):
        with answering(answer) as port:
            assert speaks_tls("127.0.0.1", port) is False
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    assert speaks_tls("127.0.0.1", port) is None  # nobody is there


def test_an_old_tls_that_asks_for_a_certificate_is_tls_too(machines: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        old = context(machines / "tls/127.0.0.1", ssl.PROTOCOL_TLS_SERVER)
        old.maximum_version = ssl.TLSVersion.TLSv1_2  # which refuses within its handshake

        def refuse() -> None:
            with suppress(ssl.SSLError, OSError):
                old.wrap_socket(listening.accept()[0], server_side=True)

        thread = threading.Thread(target=refuse)
        thread.start()
        assert speaks_tls("127.0.0.1", listening.getsockname()[1]) is True
        thread.join(10)


@pytest.fixture
def no_tls(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith(("RAY_USE_TLS", "RAY_TLS"))]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_command_and_a_cluster_that_disagree(machines: Path, no_tls: pytest.MonkeyPatch) -> None:
    own = machines / "tls/127.0.0.1"
    with server(own) as port, pytest.raises(InputError, match=rf"127.0.0.1:{port} speaks TLS; source the env of"):
        check_tls(f"127.0.0.1:{port}")
    no_tls.setenv("RAY_USE_TLS", "1")
    with pytest.raises(InputError, match="RAY_TLS_SERVER_CERT: not set, and RAY_USE_TLS=1 needs it"):
        check_tls("127.0.0.1:1")
    for name, file in (("SERVER_CERT", "node.crt"), ("SERVER_KEY", "node.key"), ("CA_CERT", "ca.crt")):
        no_tls.setenv(f"RAY_TLS_{name}", str(own / file))
    with answering(b"hello") as port, pytest.raises(InputError, match="does not speak TLS; unset RAY_USE_TLS"):
        check_tls(f"127.0.0.1:{port}")
    with server(own) as port:
        check_tls(f"127.0.0.1:{port}")
    no_tls.setenv("RAY_TLS_CA_CERT", str(own / "gone.crt"))
    with pytest.raises(InputError, match=r"RAY_TLS_CA_CERT: .*gone.crt is no file"):
        check_tls("auto")
