"""Checkpoints as others meet them: what a folder holds, its model card, and the way to the Hub and back. No torch."""
