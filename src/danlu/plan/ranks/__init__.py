"""Ranks that share: a stage cut over cards, copies of the model, parts of a sequence, experts spread over pipelines."""
