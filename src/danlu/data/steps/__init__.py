"""One filter per file; `danlu.data.clean.STEPS` says which run, and in which order."""
