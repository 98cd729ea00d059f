"""bit_axon: fine-tuning experiments for language models on MLX."""

__version__ = "0.1.0"
