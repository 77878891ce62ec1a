"""Autoencoders, KL and VQ, and what they make of data sets: latents."""
