"""Executors: the same tasks in this process, in several, or on Ray (see :mod:`coinfer_ray.runtime.executors.base`)."""

from __future__ import annotations

from coinfer_ray.errors import InputError, check_name
from coinfer_ray.runtime.executors.base import Envelope, Executor, WorkerContext
from coinfer_ray.runtime.executors.local import LocalExecutor
from coinfer_ray.runtime.executors.processes import ProcessExecutor

__all__ = ["EXECUTORS", "Envelope", "Executor", "LocalExecutor", "ProcessExecutor", "WorkerContext", "make_executor"]

EXECUTORS = ("ray", "local", "processes")


def make_executor(
    name: str,
    *,
    address: str | None = None,
    workers: int | None = None,
    cpus_per_worker: int = 1,
    gpus_per_worker: float = 0,
    in_flight: int = 1,
) -> Executor:
    """The executor called ``name``; the other arguments are :class:`RayExecutor`'s.

    ``local`` is a single worker with all threads that its process may use, whatever is asked of Ray's workers; it uses
    the first CUDA device where ``gpus_per_worker`` is above 0. ``processes`` are ``workers`` of them on this machine,
    which share that device.

    Raises:
        InputError: unknown name, or Ray is not installed.
    """
    check_name("executor", name, EXECUTORS)
    if name == "local":
        return LocalExecutor(gpu=0 if gpus_per_worker > 0 else None)
    if name == "processes":
        return ProcessExecutor(workers, gpu=0 if gpus_per_worker > 0 else None)
    try:
        from coinfer_ray.runtime.executors.ray_executor import RayExecutor
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise InputError(
            "executor: ray is not installed; pip install 'coinfer-ray[search]', or take --executor local"
        ) from None
    return RayExecutor(
        address=address,
        workers=workers,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        in_flight=in_flight,
    )
