"""The networks of the mini."""
