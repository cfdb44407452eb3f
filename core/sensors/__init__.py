"""Encoders of images from any sensor: their input, its scale, how they are built, and the file that holds them."""
