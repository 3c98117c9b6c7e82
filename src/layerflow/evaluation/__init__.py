"""Metrics and reports for any layers of any model."""
