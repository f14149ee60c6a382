"""ONE decoder, used by train and serve alike, and the ways in and out of it."""
