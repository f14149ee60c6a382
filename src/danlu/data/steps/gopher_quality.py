"""What is too short, too long, too full of signs or without stop words, by Gopher's quality rules (see rules.py)."""

from danlu.data.rules import step_of

step = step_of("gopher_quality")
