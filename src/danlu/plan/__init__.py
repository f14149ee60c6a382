"""Pure planning: what a split costs in time and memory, in which order it runs, and which split is best."""
