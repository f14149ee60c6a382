"""Runs as people state them, on any framework's stack: published rows and logs, their forecast, and how exact it is."""
