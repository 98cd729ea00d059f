"""Trials on machines that get warm: the wait before each, and what heat is held against."""
