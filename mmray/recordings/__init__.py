"""Which recordings exist, how their signals are read, and how subjects are split."""
