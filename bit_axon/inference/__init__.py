"""Generating answers."""

from bit_axon import backend  # noqa: F401 - chooses the BLAS before anything imports mlx
