"""Node features to graphs: pure functions."""
