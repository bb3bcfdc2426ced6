"""The process's memory, denormal numbers and the precision of training."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Let this thread's processor take denormal numbers for zero, and put it back.

    AdamW's averages of gradients that have gone to zero decay into such numbers, on which a processor is many times
    slower: a base network of AlexNet fell from 166 to 99 images/s after a thousand steps.
    """
    kept = float(torch.tensor(1e-39) * 1.0) != 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(not kept)


def keep_freed_memory() -> None:
    """Let the C allocator keep what it frees until :func:`release_freed_memory`.

    A training step frees and takes again buffers of up to 150 MB; given back to the kernel each time they cost
    108,000 page faults a step of AlexNet, 30 % of its time on a CPU. Does nothing where the C library is not
    glibc.
    """
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)
    mallopt(m_top_pad, 256 << 20)


def release_freed_memory() -> None:
    """Give back to the system what earlier networks took: between candidates.

    A traced network is a ring of references, which Python finds only now and then: without this a worker grows by
    190 MB a candidate of AlexNet.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return


def pick_precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it faster than float32, else float32.

    An Intel processor that has its instructions but no matrix tiles is slower with them than without (0.7 times on
    AlexNet); AMD's are half as fast again (Zen 4).
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    has = torch.cpu.get_capabilities()
    faster = has.get("amx_bf16") or (has.get("avx512_bf16") and "AMD" in str(has.get("cpu_name")))
    return torch.bfloat16 if faster else torch.float32
