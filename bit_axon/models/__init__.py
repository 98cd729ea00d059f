"""Base models: loading any mlx-lm architecture, and the policy a method sees."""

from bit_axon import backend  # noqa: F401 - chooses the BLAS before anything imports mlx
