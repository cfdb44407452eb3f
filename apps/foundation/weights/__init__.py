"""Published checkpoints into our networks."""
