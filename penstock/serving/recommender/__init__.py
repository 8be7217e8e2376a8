"""Recommendations that react to the last interaction: what people did in a store, a model of the graph, rules, a page."""
