"""Differentiable training: one training run as a function, and three ways back through it. Imports nothing of
minigtn."""
