"""Keys, signatures and encryption of a bundle's files."""
