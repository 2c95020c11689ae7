"""Scorers, one module a capability: a reply and the gold record -> Scored. Pure functions; no model, no torch."""
