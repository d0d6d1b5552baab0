"""Speculative decoding between an edge model that drafts and a cloud model that verifies."""
