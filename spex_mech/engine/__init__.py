"""How a model answers: where its units are, what replaces them, and the passes that run it.

Masks come in and values come out; whole passes and replayed passes give the same
numbers. Nothing here knows a search, a task or a result.
"""
