"""Evaluation on fixed sets: the loss of held-out examples and the accuracy of greedy answers."""

from bit_axon import backend  # noqa: F401 - chooses the BLAS before anything imports mlx
