"""Workers that compute with MLX."""

from bit_axon import backend  # noqa: F401 - loads OpenBLAS before anything imports mlx
