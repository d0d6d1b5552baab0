"""The edge model of the embedded text pair, and how it was made."""
