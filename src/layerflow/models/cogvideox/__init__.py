"""Layers on CogVideoX, and the official LayerFlow checkpoints."""
