"""Runs that survive: evaluations on disk, workers, and games that can be made elsewhere.

A store keeps every evaluation, and a worker answers for a game in another process.
Nothing here decides which masks are asked.
"""
