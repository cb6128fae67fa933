"""Charts without a library: readable numbers, inline SVG."""
