"""Real data, real servers, fresh clones."""
