"""A result as one web page that needs no network.

The words, the drawings and the page are made here from a saved result.
No model is run, and torch is not loaded.
"""
