"""Whether both sides of a Ray cluster speak TLS: where only one does, Ray waits for minutes and says nothing."""

from __future__ import annotations

import os
import re
import socket
import ssl

from coinfer_ray.errors import InputError

_WAIT_S = 5.0
_VARIABLES = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")


def check_tls(address: str) -> None:
    """Check that this process and the head at ``address`` (``host:port``; of others nothing is known) agree on TLS.

    Raises:
        InputError: the one speaks TLS and the other does not, or a file that this process needs for it is not there.
    """
    ours = os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true")
    if ours:
        for name in _VARIABLES:
            path = os.environ.get(name, "")
            if not os.path.isfile(path):
                what = f"{path} is no file" if path else "not set"
                raise InputError(
                    f"{name}: {what}, and RAY_USE_TLS=1 needs it; source the env of this machine's certificate "
                    "(clusters/certificates.sh)"
                )
    found = re.fullmatch(r"\[?([^\]/]+?)\]?:(\d+)", address)
    theirs = None if found is None else speaks_tls(found[1], int(found[2]))
    if theirs is True and not ours:
        raise InputError(
            f"address: the Ray cluster at {address} speaks TLS; source the env of this machine's certificate "
            "(clusters/certificates.sh), which sets RAY_USE_TLS=1"
        )
    if theirs is False and ours:
        raise InputError(f"address: the Ray cluster at {address} does not speak TLS; unset RAY_USE_TLS")


def speaks_tls(host: str, port: int) -> bool | None:
    """Whether what listens there answers as TLS does, with or without asking for a certificate; None if it does not
    answer."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # who it is, Ray itself will see
    try:
        with socket.create_connection((host, port), timeout=_WAIT_S) as plain:
            try:
                with context.wrap_socket(plain):
                    return True
            except ssl.SSLEOFError:  # ended without a word of TLS
                return False
            except ssl.SSLError as error:
                return "ALERT" in (error.reason or "")  # a refusal in TLS is TLS
            except ConnectionError:
                return False
    except (OSError, ValueError):
        return None
