"""Studies in a storage: made once, counted exactly, shared by workers, the dead found."""
