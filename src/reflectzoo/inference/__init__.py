"""Inference: load a trained network and separate photographs and videos into their layers."""
