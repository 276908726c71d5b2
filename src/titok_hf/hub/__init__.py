"""The earlier place of `titok_hf.checkpoints.push` and `.pull`, kept for programs that import them from here."""
