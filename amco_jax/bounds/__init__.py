"""Lower bounds on what any method can reach on given arrivals."""
