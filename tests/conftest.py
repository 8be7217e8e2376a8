"""Pins threads and kernels before any test imports NumPy: what is compared to the last digit must not depend on them."""

from penstock.reproducible import pin_numerics

pin_numerics()


def pytest_make_parametrize_id(val, argname):
    """Bytes make no name: what a compressor writes differs from run to run, and workers must agree on names."""
    return argname if isinstance(val, bytes) else None
