"""Fitting of the mini's own parts."""
