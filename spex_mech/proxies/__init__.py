"""Small models of a set function, fitted to a few of its values.

A proxy predicts values, proposes strong interactions and says how uncertain it is.
It knows masks and values only: no model, no search.
"""
