"""How far a plan can be from the best there is: the bound, its certificate, a checker that shares no code with them."""
