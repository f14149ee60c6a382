"""What hardware is here: cards and links, measured or declared, and the driver of each vendor."""
