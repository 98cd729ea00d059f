"""Trains with mlx-lm as its wheel comes, with the BLAS that MLX bundles."""

import mlx.core  # noqa: F401 - before bit_axon.backend, which then leaves the BLAS alone

from benchmarks.workers.on_mlx.mlx_lm_sft import main

if __name__ == "__main__":
    main()
