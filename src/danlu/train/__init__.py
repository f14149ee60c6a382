"""A Plan's instruction lists, executed: one process per card, one owner, snapshots, recovery."""
