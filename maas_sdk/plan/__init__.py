"""Plans of training and serving steps on a TPU slice, made with the real TPU compiler."""
