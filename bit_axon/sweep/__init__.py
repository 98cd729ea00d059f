"""Searches over configs: Optuna through Hydra's `-m`, one process per trial, resumable and shared.

Nothing is imported here: `--help` and completion come past this package.
"""
