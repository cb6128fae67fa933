"""Training: data and precision in, a trained model and its history out, the same for one seed."""
