"""Stores: one module each."""
