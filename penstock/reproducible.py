"""Same in, same out: what must be fixed before the numeric libraries are imported."""

from __future__ import annotations

import os

__all__ = ["available_cores", "pin_numerics"]

# One thread per fit: sums then have one order. Parallelism is over fits, which do not add to each other.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")

# Newer processors would take other kernels, with other last bits: hold BLAS and NumPy to those that every
# x86-64 server of the last ten years has (AVX2 with fused multiply-add).
KERNELS = {
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}


def pin_numerics() -> None:
    """Set threads and processor kernels for this process and its children; what the user has set stays."""
    for name in THREADS:
        os.environ.setdefault(name, "1" if name != "POLARS_MAX_THREADS" else str(available_cores()))
    for name, value in KERNELS.items():
        os.environ.setdefault(name, value)


def available_cores() -> int:
    """Cores this process may use: PENSTOCK_CORES if set, else what the scheduler allows."""
    wanted = os.environ.get("PENSTOCK_CORES")
    if wanted and wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
