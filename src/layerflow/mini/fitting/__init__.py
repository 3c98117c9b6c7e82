"""Training of the mini's own parts."""
