"""Which version of a model answers whom: router, strategies, state, audit trail, flags and console."""
