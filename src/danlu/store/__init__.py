"""Bytes that must not be lost: snapshots of a training run, and packs of small files. No torch here."""
