"""Image data sets: loading them with class names, preparing square crops, turning them into codes."""
