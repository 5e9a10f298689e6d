"""U-shapes on residual encoders with context modules."""
