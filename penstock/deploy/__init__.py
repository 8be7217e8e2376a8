"""Artefacts to the clouds: infrastructure by their own tools, releases by journalled steps that can be resumed."""
