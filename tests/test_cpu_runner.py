"""The written-out passes on a CPU against autodiff through mlx-lm's own code."""
