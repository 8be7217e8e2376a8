"""Loads: from any source to a table that is never half-written, however often the load is killed.

``run`` reads chunks, settles what shape they have, checks them by contract, makes of them what is declared and hands
them to a destination, which stores rows and the place in the source in one act.
"""
