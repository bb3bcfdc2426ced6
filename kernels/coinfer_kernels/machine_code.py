"""Machine code kept on disk between processes, and word of what is being compiled.

numba's own cache (``cache=True``) looks at the file of the kernel itself, so that a change of a function that it
calls in another file goes unseen. Here the folder's name holds a hash of all that machine code depends on: the sources
of this package, numba, llvmlite, NumPy, Python, and the processor with its features. Old folders are deleted when a
new one is made and they have not been used for :data:`UNUSED_DAYS`.

The folder is ``kernels-<hash>`` in

1. ``$COINFER_CACHE_DIR``, or ``coinfer-ray`` in ``$NUMBA_CACHE_DIR``, else in the user's folder for caches
   (``$XDG_CACHE_HOME`` or ``~/.cache``; ``~/Library/Caches`` on macOS; ``%LOCALAPPDATA%`` on Windows);
2. where nothing can be written there, in the folder for temporary files, for this user alone;
3. else nowhere: every process compiles for itself.

A file holds one kernel for one set of argument types. It is written whole or not at all, and read only where its
checksum is right. Of several processes that need the same kernel one compiles and the others wait for it, where the
file system has locks.
"""

import contextlib
import hashlib
import importlib.util
import os
import pickle
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba
import numpy as np
from numba.core import compiler, serialize, sigutils
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

UNUSED_DAYS = 28
WAIT_S = 600.0  # for another process that compiles the same kernel; then this one compiles it, too
_numba: Any = numba  # without all type hints
_compiler: Any = compiler
_serialize: Any = serialize
_sigutils: Any = sigutils
_PACKAGE = Path(__file__).resolve().parent
_OWN_FOLDER = re.compile(r"kernels-[0-9a-f]{20}")
_OWN_FILE = re.compile(r".+\.(code|lock)|used|\..+\.tmp")
_DAY_S = 86400
_lock_file: Callable[[int], None] | None = None

if importlib.util.find_spec("fcntl"):  # not on Windows
    import fcntl

    def _try_lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    _lock_file = _try_lock


class Compiling(NamedTuple):
    """What :func:`on_compile` reports: a function that is being compiled, or has been."""

    function: str  # module.name
    done: bool
    functions: int  # compiled by this process until now, the parts of kernels among them
    seconds: float  # spent on them
    outermost: bool  # whether no other function waits for this one


Listener = Callable[[Compiling], object]
_listeners: list[Listener] = []
_began: list[float] = []  # of the functions being compiled, the outermost first; under numba's lock
_compiled, _seconds = 0, 0.0


def on_compile(listener: Listener) -> Callable[[], None]:
    """Call ``listener`` before and after the compilation of every function, in the thread that compiles it.

    It isn't called for what is read from disk. Returns what ends that.
    """
    _listeners.append(listener)
    return lambda: _listeners.remove(listener) if listener in _listeners else None


@contextlib.contextmanager
def told(function: str) -> Iterator[None]:
    """Report the compilation of a function to the listeners."""
    global _compiled, _seconds
    _tell(function, done=False)
    _began.append(time.perf_counter())
    try:
        yield
        _compiled += 1
    finally:
        started = _began.pop()
        if not _began:
            _seconds += time.perf_counter() - started
        _tell(function, done=True)


def count(function: str) -> None:
    """Report a function that another process has compiled for this one."""
    global _compiled
    _compiled += 1
    _tell(function, done=True)


def _tell(function: str, done: bool) -> None:
    seconds = _seconds + (time.perf_counter() - _began[0] if _began else 0.0)
    for listener in list(_listeners):
        listener(Compiling(function, done, _compiled, seconds, not _began))


def _hash_of_sources() -> str | None:
    """None where there are no files to read, as in a frozen application."""
    digest = hashlib.sha256()
    try:
        files = sorted(_PACKAGE.rglob("*.py"))
        for file in files:
            digest.update(file.relative_to(_PACKAGE).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    except OSError:
        return None
    return digest.hexdigest() if files else None


# Now, so that it says what this process has imported: a file may be edited before anything is compiled.
_SOURCES = _hash_of_sources()


def processor() -> tuple[str, str, str]:
    """Triple, name and features of the processor that is compiled for."""
    found: tuple[str, str, str] = cpu_target.target_context.codegen().magic_tuple()
    return found


@cache
def folder() -> Path | None:
    """Where the machine code of this version of the kernels is kept, made if need be; None for nowhere."""
    if _SOURCES is None:
        return None
    config = vars(_numba.config)
    parts = (
        _SOURCES,
        numba.__version__,
        llvmlite.__version__,
        np.__version__,
        sys.implementation.cache_tag,
        *processor(),
        *(str(config.get(name)) for name in ("OPT", "BOUNDSCHECK", "LOOP_VECTORIZE", "SLP_VECTORIZE")),
    )
    name = "kernels-" + hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:20]
    for parent in (_user_folder(), _temporary_folder()):
        if parent is not None and _usable(parent / name):
            return parent / name
    return None


def _user_folder() -> Path | None:
    for variable, below in (("COINFER_CACHE_DIR", ""), ("NUMBA_CACHE_DIR", "coinfer-ray")):
        if os.environ.get(variable):
            return Path(os.environ[variable]) / below
    try:
        if sys.platform == "win32":
            parent = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            parent = Path.home() / "Library" / "Caches"
        else:
            parent = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home
        return None
    return parent / "coinfer-ray"


def _temporary_folder() -> Path | None:
    """For this user alone: what is read from it is run."""
    if not hasattr(os, "getuid"):
        return None
    found = Path(tempfile.gettempdir()) / f"coinfer-ray-{os.getuid()}"
    try:
        with contextlib.suppress(FileExistsError):
            found.mkdir(mode=0o700)
        status = found.lstat()
    except OSError:
        return None
    ours = status.st_uid == os.getuid() and status.st_mode & 0o170077 == 0o040000
    return found if ours else None


def _usable(here: Path) -> bool:
    try:
        new = not here.exists()
        here.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    used = here / "used"
    try:
        if not used.exists() or time.time() - used.stat().st_mtime > _DAY_S:
            used.touch()
    except OSError:
        return any(here.glob("*.code"))  # one that was filled for us to read
    if new:
        prune(here.parent)
    return True


def prune(parent: Path, now: float | None = None) -> None:
    """Delete the folders of other versions that were last used :data:`UNUSED_DAYS` ago: our own files only."""
    limit = (time.time() if now is None else now) - UNUSED_DAYS * _DAY_S
    with contextlib.suppress(OSError):
        for old in list(parent.iterdir()):
            with contextlib.suppress(OSError):
                if _OWN_FOLDER.fullmatch(old.name) and not old.is_symlink() and (old / "used").stat().st_mtime < limit:
                    for file in list(old.iterdir()):
                        if _OWN_FILE.fullmatch(file.name):
                            file.unlink()
                    old.rmdir()


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Keep other processes from compiling the same, where that can be done."""
    lock = _lock_file
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        yield
        return
    try:
        end = time.monotonic() + WAIT_S
        while lock is not None and time.monotonic() < end:
            try:
                lock(descriptor)
                break
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        os.close(descriptor)


class KernelCache:
    """The cache of one kernel, in place of numba's: what a dispatcher asks of it."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
        self._function = function

    @property
    def cache_path(self) -> str | None:
        """The folder, for ``dispatcher.stats``."""
        here = folder()
        return None if here is None else str(here)

    def file(self, signature: Any) -> tuple[Path, bytes] | None:
        """The file for one set of argument types, and what it begins with; None where none can be kept."""
        here = folder()
        types, _ = _sigutils.normalize_signature(signature)
        key = _serialize.dumps((self.name, self._function.__code__.co_firstlineno, repr(types)))
        # Functions as arguments have a number of their own in every process.
        if here is None or any(isinstance(kind, _numba.types.Callable) for kind in types):
            return None
        return here / f"{self.name}-{hashlib.sha256(key).hexdigest()[:20]}.code", hashlib.sha256(key).digest()

    def load_overload(self, signature: Any, target: Any) -> Any:
        """The kernel compiled for these types, or None."""
        target.refresh()
        place = self.file(signature)
        if place is None:
            return None
        file, key = place
        try:
            held = file.read_bytes()
            start = len(key) + hashlib.sha256().digest_size
            if held[:start] != key + hashlib.sha256(held[start:]).digest():
                return None
            return _compiler.CompileResult._rebuild(target, *pickle.loads(held[start:]))
        except (OSError, pickle.PickleError, EOFError):
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep a kernel; what can't be written isn't kept."""
        place = self.file(signature)
        if place is None or compiled.library.has_dynamic_globals or compiled.lifted:
            return
        file, key = place
        code = _serialize.dumps(compiled._reduce())
        part = None
        try:
            descriptor, part = tempfile.mkstemp(".tmp", f".{file.name}.", file.parent)
            with open(descriptor, "wb") as stream:
                stream.write(key + hashlib.sha256(code).digest() + code)
            os.replace(part, file)
        except OSError:
            if part is not None:
                with contextlib.suppress(OSError):
                    os.unlink(part)

    def flush(self) -> None:
        """Forget this kernel, as ``dispatcher.recompile()`` asks."""
        here = folder()
        with contextlib.suppress(OSError):
            for file in [] if here is None else list(here.glob(f"{self.name}-*.code")):
                file.unlink()

    def enable(self) -> None:
        """Nothing: it always is."""


def is_kept(dispatcher: Any) -> bool:
    """Whether the kernel is on disk, for some types of arguments."""
    here, kept = folder(), getattr(dispatcher, "_cache", None)
    return here is not None and isinstance(kept, KernelCache) and any(here.glob(f"{kept.name}-*.code"))


def keep(dispatcher: Any) -> None:
    """Keep what a dispatcher compiles, each in one process at a time."""
    function = dispatcher.py_func
    if not Path(function.__code__.co_filename).resolve().is_relative_to(_PACKAGE) or function.__closure__:
        return  # what it depends on isn't in the folder's name
    kept = dispatcher._cache = KernelCache(function)
    compile_now = dispatcher.compile

    def compile_alone(signature: Any) -> Any:
        with global_compiler_lock:
            types, _ = _sigutils.normalize_signature(signature)
            known = dispatcher.overloads.get(tuple(types))
            if known is not None:
                return known.entry_point
            place = kept.file(signature)
            if place is None or place[0].exists():
                return compile_now(signature)
            with _alone(place[0].with_suffix(".lock")):
                return compile_now(signature)

    dispatcher.compile = compile_alone
