"""Quantized base weights: their shapes, their products, and their float copies."""

from bit_axon import backend  # noqa: F401 - chooses the BLAS before anything imports mlx
