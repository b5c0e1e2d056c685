"""Metrics of arrays, their statistics, and the report. No model enters this package."""
