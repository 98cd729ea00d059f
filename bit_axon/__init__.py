"""bit_axon: fine-tuning experiments for language models on MLX."""

import os

__version__ = "0.1.0"

# transformers greets every program with a line about PyTorch, which nothing here needs.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
