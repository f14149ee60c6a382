"""From folders of text to tokens: read, clean, de-duplicate, encode, and load in a shuffled, resumable order."""
