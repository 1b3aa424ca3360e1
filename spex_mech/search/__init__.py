"""Which masks to ask for.

A search asks for masks as unit numbers and is told their values; it never calls a game.
It knows integers only: no model, no labels, no torch.
"""
