"""The training loop: optimizer, step, progress, checkpoints, journal."""
