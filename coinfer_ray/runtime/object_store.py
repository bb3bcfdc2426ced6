"""A prefix of an object store (S3 and what speaks like it, GCS), or a folder of HDFS, through pyarrow.

An object appears whole or not at all: a PUT is that by itself, HDFS gets a temporary file that is then renamed. One
driver at a time holds a prefix by a lock object (:mod:`coinfer_ray.runtime.lease`). Credentials are where each store's
own tools look for them (environment, profile, the machine's role) and never in an address, which ends up in logs.

What cannot work (no such bucket, no permission, no endpoint) is said at once; once a store has answered, a failure of
the network is waited out for a minute, so that a long run outlives it.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from coinfer_ray.errors import InputError, check_name
from coinfer_ray.runtime.files import RUN_FILE, TEMPORARY, check_same_run, claim_document, claim_text, parse_run
from coinfer_ray.runtime.lease import LEASE_S, PREFIX, Lease, holders, leased
from coinfer_ray.runtime.stores import Seen, crc32_of

T = TypeVar("T")

PAUSES_S = (1.0, 4.0, 15.0, 40.0)  # before a call is tried again, in a store that has answered before
_CONNECT_S, _REQUEST_S, _ATTEMPTS = 5, 60, 3  # of the store's own library
_S3_PARAMETERS = ("endpoint_override", "scheme", "region", "force_virtual_addressing")
_GCS_PARAMETERS = ("endpoint_override", "scheme", "retry_limit_seconds")
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
_NETWORK = re.compile(
    r"NETWORK_CONNECTION|UNAVAILABLE|SLOW_DOWN|INTERNAL_FAILURE|curlCode|timed? ?out|Connection refused|"
    r"DEADLINE_EXCEEDED|Could not connect|Could not resolve",
    re.IGNORECASE,
)
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|bucket does not exist", re.IGNORECASE)
_REFUSED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE|INVALID_CLIENT_TOKEN|UNRECOGNIZED_CLIENT|EXPIRED_TOKEN|"
    r"PERMISSION_DENIED|UNAUTHENTICATED|HTTP status 40[13]|OAuth2 access token|AccessControlException|credentials",
    re.IGNORECASE,
)
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or give the machine a service account",
    "hdfs": "check the user's rights, or its Kerberos ticket",
}
_SHOWN = 200  # characters of a library's message in ours


class ObjectStore:
    """The objects whose names begin with an address's path and a slash.

    ``s3://bucket/prefix?endpoint_override=HOST:PORT&scheme=http&region=R`` (the first two also by
    ``AWS_ENDPOINT_URL``), ``gs://bucket/prefix``, ``hdfs://host:port/folder``.

    Raises:
        InputError: an address that says nothing, or too much; HDFS without Java; a bucket of AWS whose region cannot be
            found out.
    """

    readers = 16

    def __init__(self, address: str) -> None:
        if "#" in address:  # where an address ends for some readers, and a key goes on for others
            raise InputError(f"{address}: holds a #, which no address may; name the prefix otherwise")
        parts = urlsplit(address)
        self.kind = {"gcs": "gs", "viewfs": "hdfs"}.get(parts.scheme, parts.scheme)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        if self.kind != "hdfs" and not parts.netloc:
            raise InputError(f"{shown}: names no bucket; give {parts.scheme}://BUCKET/PREFIX")
        if "@" in parts.netloc and self.kind != "hdfs" and parts.netloc.partition("@")[0] != "anonymous":
            raise InputError(f"{shown}: holds credentials, and addresses end up in logs; {_CREDENTIALS[self.kind]}")
        self._shown = shown.rstrip("/") + (f"?{parts.query}" if parts.query else "")
        self._root = shown.rstrip("/")
        self._answered = False
        self._lease: Lease | None = None
        self._bucket = parts.netloc.rpartition("@")[2]
        self.address = address
        if self.kind == "s3":
            self._fs, self.address = self._s3(parts)
        elif self.kind == "gs":
            self._fs = self._gcs(parts)
        else:
            self._fs = self._call(lambda: _hadoop(address))
        base = parts.path.strip("/") if self.kind != "hdfs" else parts.path.rstrip("/")
        self._base = f"{self._bucket}/{base}".rstrip("/") if self.kind != "hdfs" else base

    def __str__(self) -> str:
        return self._shown

    @property
    def arrow(self) -> tuple[Any, str]:
        """See :class:`coinfer_ray.runtime.stores.Store`; so all that follows."""
        return self._fs, self._base

    def path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def run(self, kind: str, settings: Mapping[str, Any]) -> Iterator[None]:
        wanted = claim_document(kind, settings)
        self._check_claim(wanted)
        with leased(self) as lease:
            self._lease = lease
            try:
                fresh = not self._check_claim(wanted)
                if fresh:
                    self.write(RUN_FILE, claim_text(wanted).encode())
                self._remove_temporaries()
                try:
                    yield
                except InputError:
                    if fresh and not self._names_seen() - {RUN_FILE}:
                        with suppress(InputError):
                            self.remove(RUN_FILE)
                    raise
            finally:
                self._lease = None

    def has_run(self) -> bool:
        return bool(self.sizes([RUN_FILE]))

    def read_run(self) -> dict[str, Any]:
        try:
            return parse_run(self.read(RUN_FILE), self.path(RUN_FILE))
        except FileNotFoundError:
            if self.kind != "hdfs" and not self._call(lambda: self._fs.get_file_info(self._bucket)).type:
                raise InputError(f"{self}: there is no bucket {self._bucket}; check its name") from None
            raise InputError(f"{self}: no {RUN_FILE} there; give the output folder of a run") from None

    def holder(self) -> str | None:
        """Who wrote the newest lock; None where none can be read."""
        try:
            return next((str(holder) for _, holder in holders(self, self.locks())), None)
        except InputError:
            return None

    def held_by(self) -> str | None:
        """By this machine's clock: whether a lock is alive says the store's."""
        seen = self.locks()
        for name, holder in holders(self, seen):
            if time.time() - seen[name].time_s <= LEASE_S and not holder.is_dead:
                return str(holder)
        return None

    def locks(self) -> dict[str, Seen]:
        """The lock objects that are there."""
        listed = self._list(self._base, recursive=False)
        return {name: seen for name, seen in listed.items() if name.startswith(PREFIX)}

    def read(self, name: str) -> bytes:
        def act() -> bytes:
            with self._fs.open_input_stream(self._at(name), compression=None) as file:
                content: bytes = file.read()
                return content

        return self._call(act)

    def write(self, name: str, content: Any) -> None:
        """Only while the driver's lock is its own, where this is a driver's store."""
        if self._lease is not None:
            self._lease.check()
        self.put(name, content)

    def put(self, name: str, content: Any) -> None:
        """Write a buffer as an object, whoever holds the store."""
        path = self._at(name)
        self._call(lambda: self._rename_into(path, content) if self._renames else self._put(path, content))

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._call(lambda: self._fs.delete_file(self._at(name)))

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """By one listing, where there are several."""
        wanted = set(names)
        if len(wanted) == 1:
            (name,) = wanted
            info = self._call(lambda: self._fs.get_file_info(self._at(name)))
            return {name: info.size} if info.is_file else {}
        return {name: seen.bytes for name, seen in self._list(self._base).items() if name in wanted}

    def crc32(self, name: str) -> int | None:
        def act() -> int:
            with self._fs.open_input_stream(self._at(name), compression=None) as file:
                return crc32_of(file)

        try:
            return self._call(act)
        except FileNotFoundError:
            return None

    def results(self) -> dict[str, Seen]:
        listed = self._list(self._base).items()
        return {name: seen for name, seen in listed if not any(part.startswith((".", "_")) for part in name.split("/"))}

    def below(self, name: str) -> dict[str, Seen]:
        """The file of that name, or the files in the folder of that name that do not begin with a dot."""
        info = self._call(lambda: self._fs.get_file_info(self._at(name)))
        if info.is_file:
            return {name: _seen(info)}
        inside = self._list(self._at(name)).items()
        return {f"{name}/{each}": seen for each, seen in inside if not each.rpartition("/")[2].startswith(".")}

    @contextmanager
    def working_folder(self, beginning: str) -> Iterator[Path]:
        """What a kill interrupts is not brought back; any other end is."""
        before = {name: b"" for name in self._list(self._base) if name.startswith(beginning)}
        with TemporaryDirectory(prefix="coinfer-") as place:
            folder = Path(place)
            for name in before:
                before[name] = self.read(name)
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(before[name])
            try:
                yield folder
            finally:
                files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
                after = {path.relative_to(folder).as_posix(): path for path in files if not path.name.startswith(".")}
                for name, path in after.items():
                    content = path.read_bytes()
                    if name not in before or before[name] != content:
                        self.write(name, content)
                for name in before.keys() - after.keys():
                    self.remove(name)

    @property
    def _renames(self) -> bool:
        """Whether what is being written can be seen, so that it needs a temporary name."""
        return self.kind == "hdfs"

    def _at(self, name: str) -> str:
        return f"{self._base}/{name}"

    def _put(self, path: str, content: Any) -> None:
        with self._fs.open_output_stream(path, compression=None) as stream:
            stream.write(content)

    def _rename_into(self, path: str, content: Any) -> None:
        parent, _, base = path.rpartition("/")
        temporary = f"{parent}/.coinfer-{base}.{os.getpid()}.{secrets.token_hex(6)}.tmp"
        self._fs.create_dir(parent, recursive=True)
        self._put(temporary, content)
        try:
            self._fs.move(temporary, path)
        except OSError:  # HDFS renames over nothing
            self._fs.delete_file(path)
            self._fs.move(temporary, path)

    def _check_claim(self, wanted: Mapping[str, Any]) -> bool:
        """Whether the run has claimed the store before. InputError where another has, or files lie there unclaimed."""
        if not self.has_run():
            if self._names_seen():
                raise InputError(f"out: {self} holds files but no {RUN_FILE}; give an empty or a new prefix")
            return False
        check_same_run(self.read_run(), wanted, str(self))
        return True

    def _names_seen(self) -> set[str]:
        return {name for name in self._list(self._base, recursive=False, folders=True) if not name.startswith(".")}

    def _remove_temporaries(self) -> None:
        if self._renames:
            for name in self._list(self._base):
                if TEMPORARY.fullmatch(name.rpartition("/")[2]):
                    self.remove(name)

    def _list(self, path: str, *, recursive: bool = True, folders: bool = False) -> dict[str, Seen]:
        """The files (and ``folders``) below ``path``, by their names from there on."""
        from pyarrow.fs import FileSelector

        selector = FileSelector(path, allow_not_found=True, recursive=recursive)
        listed = self._call(lambda: self._fs.get_file_info(selector))
        found = [info for info in listed if info.is_file or (folders and self._holds_files(info))]
        return {info.path.removeprefix(path).lstrip("/"): _seen(info) for info in found}

    def _holds_files(self, info: Any) -> bool:
        """Whether a folder is one: object stores show the names of what was removed."""
        return any(not name.startswith(".") for name in self._list(info.path))

    def _call(self, act: Callable[[], T]) -> T:
        """What ``act`` gives; FileNotFoundError is passed on.

        Raises:
            InputError: the store refuses, or cannot be reached.
        """
        pauses = iter(PAUSES_S)
        while True:
            try:
                answer = act()
            except FileNotFoundError:
                raise
            except OSError as error:
                pause = next(pauses, None) if self._answered and _NETWORK.search(str(error)) else None
                if pause is None:
                    raise InputError(self._refusal(error)) from None
                time.sleep(pause)
                continue
            self._answered = True
            return answer

    def _refusal(self, error: OSError) -> str:
        text = " ".join(str(error).split())
        if "libjvm" in text or "libhdfs" in text:
            return f"{self}: HDFS is reached through Java; set JAVA_HOME, HADOOP_HOME and CLASSPATH (hadoop classpath)"
        if _NO_BUCKET.search(text):
            return f"{self}: there is no bucket {self._bucket}; make it, or check its name"
        if _REFUSED.search(text):
            return f"{self}: permission denied, or no credentials ({_short(text)}); {_CREDENTIALS[self.kind]}"
        if _NETWORK.search(text):
            return f"{self}: cannot be reached ({_short(text)}); check the network and the endpoint"
        return f"{self}: {_short(text)}"

    def _s3(self, parts: SplitResult) -> tuple[Any, str]:
        """The file system, and the address with all that this machine's environment said."""
        from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

        asked = self._parameters(parts, _S3_PARAMETERS)
        if "endpoint_override" not in asked:
            endpoint = next((os.environ[each] for each in _ENDPOINT_VARIABLES if os.environ.get(each)), "")
            scheme, separator, host = endpoint.rpartition("://")
            if host:
                asked["endpoint_override"] = host.rstrip("/")
            if separator:
                asked.setdefault("scheme", scheme)
        if asked.get("scheme", "https") not in ("http", "https"):
            raise InputError(f"{self}: scheme {asked['scheme']} is neither http nor https")
        if "region" not in asked:
            region = next((os.environ[each] for each in _REGION_VARIABLES if os.environ.get(each)), "us-east-1")
            if "endpoint_override" not in asked:
                try:
                    region = self._call(lambda: resolve_s3_region(self._bucket))
                except FileNotFoundError:
                    raise InputError(f"{self}: there is no bucket {self._bucket}; make it, or check its name") from None
            asked["region"] = region
        system = S3FileSystem(
            region=asked["region"],
            endpoint_override=asked.get("endpoint_override"),
            scheme=asked.get("scheme", "https"),
            force_virtual_addressing=asked.get("force_virtual_addressing", "false") == "true",
            anonymous=parts.netloc.startswith("anonymous@"),
            connect_timeout=_CONNECT_S,
            request_timeout=_REQUEST_S,
            retry_strategy=AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
            allow_delayed_open=True,  # an object of less than some 10 MB is one request
        )
        return system, f"s3://{parts.netloc}{parts.path}?{urlencode(asked)}"

    def _gcs(self, parts: SplitResult) -> Any:
        from pyarrow.fs import GcsFileSystem

        asked = self._parameters(parts, _GCS_PARAMETERS)
        limit = asked.get("retry_limit_seconds", "15")
        if not limit.isdecimal() or int(limit) < 1:
            raise InputError(f"{self}: retry_limit_seconds {limit} is no number of seconds, 1 or more")
        return GcsFileSystem(
            anonymous=parts.netloc.startswith("anonymous@"),
            endpoint_override=asked.get("endpoint_override"),
            scheme=asked.get("scheme"),
            retry_time_limit=timedelta(seconds=int(limit)),
        )

    def _parameters(self, parts: SplitResult, known: tuple[str, ...]) -> dict[str, str]:
        asked = dict(parse_qsl(parts.query, keep_blank_values=True))
        for name in asked:
            check_name(f"{self._root}: parameter", name, known)
        return asked


def _hadoop(address: str) -> Any:
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(address)[0]


def _seen(info: Any) -> Seen:
    return Seen(info.size or 0, (info.mtime_ns or 0) / 1e9)


def _short(text: str) -> str:
    """What the store said, without the library's account of what it was doing."""
    for pattern in (r"Details: (.+)", r"AWS Error \w+ during \w+ operation: (.+)"):
        found = re.search(pattern, text)
        if found:
            text = found[1]
    text = re.sub(r"\s*\(Request ID:.*", "", text).strip() or "no details"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
