"""Compile targets of executables, and the processes that compile and run them."""
