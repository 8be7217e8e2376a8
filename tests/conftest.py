"""Pins threads and kernels before any test imports NumPy: what is compared to the last digit must not depend on them."""

from penstock.reproducible import pin_numerics

pin_numerics()
