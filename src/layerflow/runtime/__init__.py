"""Where and how a pipeline runs: device, memory, speed, several processes."""
