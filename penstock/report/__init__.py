"""The two pages of a data set: what the data are like, and what the model is worth."""
