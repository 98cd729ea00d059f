"""Base models: loading any mlx-lm architecture, and the policy a method sees."""
