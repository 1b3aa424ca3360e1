"""What was measured: interactions, their errors and q-values, and how stable they are.

Results are small data that can be saved, loaded and compared without a model.
Nothing here runs a game or draws a picture.
"""
