"""What is done about a model that is no longer good: incidents, decisions, champion and challenger, reliability."""
