"""Losses, the loop (no Ray inside), and Ray Train around it."""
