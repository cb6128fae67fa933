"""Commands that make bundles: export, quantize, reweight, package, seal, inspect, verify."""
