"""How every kernel is compiled, and how kernels share the machine's cores."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from numba import config, njit, typeof
from numpy.typing import NDArray

from coinfer_kernels import machine_code
from coinfer_kernels.linking import KernelCompiler, PartCompiler

Function = TypeVar("Function", bound=Callable[..., object])

_compile: Any = njit  # some of its options are missing in its type hints
_type_of: Any = typeof
_OPTIONS = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
_PART = _OPTIONS | {"no_cpython_wrapper": True, "pipeline_class": PartCompiler}


def kernel(function: Function) -> Function:
    """Compile ``function`` without the interpreter lock; the machine code is kept on disk (``machine_code``)."""
    dispatcher = _compile(pipeline_class=KernelCompiler, **_OPTIONS)(function)
    if not config.DISABLE_JIT:  # type: ignore[attr-defined]
        machine_code.keep(dispatcher)
    return cast(Function, dispatcher)


def inner(function: Function) -> Function:
    """As :func:`kernel`, to be called by compiled code only (``linking``), and making no arrays.

    Reference counting is off: taking an array out of a tuple would count all the arrays in it, which is most of the
    time of a small kernel. So is the code that unpacks Python's tuples, which is most of the time of compiling.
    """
    return cast(Function, _compile(_nrt=False, **_PART)(function))


def maker(function: Function) -> Function:
    """As :func:`inner`, but making arrays."""
    return cast(Function, _compile(**_PART)(function))


def entry_point(compiled: Callable[..., Any], *arguments: object) -> Callable[..., Any]:
    """A kernel's machine code for arguments of exactly these types, to be called with no others.

    A call through it leaves out numba's look at the arguments' types, a good part of a microsecond.
    """
    dispatcher: Any = compiled
    signature = tuple(_type_of(argument) for argument in arguments)
    if signature not in dispatcher.overloads:
        dispatcher.compile(signature)
    entry: Callable[..., Any] = dispatcher.overloads[signature].entry_point
    return entry


@inner
def copy_row(source: NDArray[Any], target: NDArray[Any]) -> None:
    """Copy a row; numba takes seconds to compile ``target[:] = source``."""
    for i in range(source.shape[0]):
        target[i] = source[i]


def default_threads() -> int:
    """Threads used where the caller doesn't say: ``NUMBA_NUM_THREADS``, or the cores that this process may use."""
    return int(vars(config)["NUMBA_NUM_THREADS"])


def check_threads(threads: int | None) -> int:
    """The number of threads to use.

    Raises:
        ValueError: fewer than one.
    """
    if threads is None:
        return default_threads()
    if threads < 1:
        raise ValueError(f"threads: {threads} is too few; at least 1 is needed")
    return threads


def run_parts(work: Callable[[int, int], object], count: int, part: int, threads: int) -> None:
    """Call ``work(start, stop)`` for the parts of ``range(count)``, ``part`` items each, on ``threads`` threads.

    A thread takes the next part as it finishes one, so uneven parts keep all of them busy to the end. Plain
    threads around kernels that release the interpreter lock need none of numba's threading layers, of which one
    ends the process when two threads enter it and another does not survive a fork.
    """
    starts = range(0, count, part)
    if threads == 1 or len(starts) <= 1:
        for start in starts:
            work(start, min(count, start + part))
        return
    with ThreadPoolExecutor(min(threads, len(starts))) as pool:
        pending = [pool.submit(work, start, min(count, start + part)) for start in starts]
        try:
            for future in pending:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
