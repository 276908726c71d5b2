"""Image data sets: loading them with class names, and holding small ones in memory as one tensor."""
