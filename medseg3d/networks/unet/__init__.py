"""Encoder, decoder and skips: the U-Net and its kin."""
