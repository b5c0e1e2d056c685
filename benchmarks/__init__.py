"""Ratios against the strongest alternative, both sides in one run: python -m benchmarks NAME [--quick] [--json]."""
