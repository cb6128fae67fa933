"""Parity: loss curves of one run under several precisions, compared."""
