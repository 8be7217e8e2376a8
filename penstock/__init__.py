"""Penstock: from raw data to a served model, every step declared, versioned and comparable."""
