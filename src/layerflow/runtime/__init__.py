"""Placement of a pipeline: device, memory, speed, several processes."""
