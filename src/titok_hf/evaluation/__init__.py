"""Measuring a trained model: how well it reconstructs, how recognisable and how new its images are."""
