"""Dataset versions to checkpoints and their evaluation."""
