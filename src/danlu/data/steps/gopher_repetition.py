"""What says the same again and again: lines, paragraphs, runs of words, by Gopher's repetition rules (see rules.py)."""

from danlu.data.rules import step_of

step = step_of("gopher_repetition")
