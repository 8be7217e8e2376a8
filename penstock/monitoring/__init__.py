"""What a model is asked and answers, compared with what it was made for: drift, performance, alerts."""
