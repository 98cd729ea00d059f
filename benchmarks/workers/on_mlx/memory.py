"""MLX's own count of allocated memory."""

from bit_axon.backend import mx


class MlxMemory:
    """The peak of MLX's allocator since the last reset; what lives on is counted in it."""

    def reset(self) -> None:
        """Forgets the peak."""
        mx.reset_peak_memory()

    def peak_bytes(self) -> int:
        """The most that was allocated since."""
        return int(mx.get_peak_memory())
