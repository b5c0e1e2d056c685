"""Signal to node features: pure functions, and the Ray Data pipeline that runs them."""
