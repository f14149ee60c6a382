"""Who is dead, who is slow, and real faults to try it with. Deciding is pure; recovery itself belongs to the owner."""
