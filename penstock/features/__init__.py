"""Columns that are declared: stateless ones as polars expressions, fitted ones as scikit-learn transformers."""
