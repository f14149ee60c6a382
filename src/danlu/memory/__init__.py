"""Where bytes live and how many there may be. Today the card's own budget; tiers and movers come beside it."""
