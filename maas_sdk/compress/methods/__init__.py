"""The mathematics of compression, in NumPy: matrices in, codes and scales out."""
