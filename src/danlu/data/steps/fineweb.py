"""Lists, menus and logs: lines without an end, short or repeated ones, by FineWeb's rules (see rules.py)."""

from danlu.data.rules import step_of

step = step_of("fineweb")
