"""Tensors between processes of unlike cards: our own sockets, a header on every message, a limit on every wait."""
