"""The predictor: the graph's artefacts over HTTP.

Needs ONNX Runtime, NumPy and a web server; neither polars nor anything that has trained a model.
"""
