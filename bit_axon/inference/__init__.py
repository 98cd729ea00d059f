"""Generating answers."""
