"""The model and the data that come with the package, and the generator both are made from."""

from bit_axon.embedded.sources import nano_path, path_of, read

__all__ = ["nano_path", "path_of", "read"]
