"""Quantized base weights: their shapes, their products, and their float copies."""
