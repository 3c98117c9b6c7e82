"""Foundations without models: the layered video, compositing, names, errors, files that appear whole or not at all."""
