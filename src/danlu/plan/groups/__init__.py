"""Fleets of groups of like cards, too large to name each: the search over pipelines, and what is told of its plan."""
