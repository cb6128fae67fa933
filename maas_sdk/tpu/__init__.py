"""The TPU compiler, in a child process that needs no TPU."""
