"""Pictures and pages without a library: numbers as people read them, SVG, HTML with its style."""
