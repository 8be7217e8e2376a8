"""Recommendations from interactions: what is split, learnt, searched, compared and judged, before any artefact is made."""
