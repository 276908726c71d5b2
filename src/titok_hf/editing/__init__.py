"""Images changed through their tokens: token optimisation, inpainting, variations, interpolation."""
