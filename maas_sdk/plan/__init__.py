"""What a training or serving step would do on a TPU slice, asked of the real TPU compiler."""
