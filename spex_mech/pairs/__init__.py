"""Pairs of units: their predicted sizes, and the largest of all of them without an n x n table.

Searches and proxies both read these. They know numbers of units only: no model, no mask, no search.
"""
