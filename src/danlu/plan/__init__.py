"""Pure planning: what a split costs in time and memory, in which order it runs, and which split is best.

Here: one pipeline over cards that have names, as `danlu train` runs it. In `ranks`: stages, sequences and experts that
several cards share. In `groups`: fleets too large to name their cards. In `proof`: how far such a plan can be from the
best. In `stated`: runs of any framework, as publications and logs state them.
"""
