"""ONNX files with a manifest: the only door between training and serving.

`manifest`, `inputs`, `model` and `score` are the serving side and need neither scikit-learn nor onnx.
The other modules write artefacts.
"""
