"""What `hydra.sweeper` says: the space, samplers and pruners by name, and what may not change."""
