"""Transfer learning on pictures. Nothing here is imported by what serves a model, nor by any stage of tables."""
