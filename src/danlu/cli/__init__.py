"""The command line: the only place where rooms are wired together."""
