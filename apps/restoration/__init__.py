"""Image restoration: super-resolution, deblurring, denoising, deraining."""
