"""Logs: one module each."""
