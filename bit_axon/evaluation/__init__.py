"""Evaluation on fixed sets: the loss of held-out examples and the accuracy of greedy answers."""
