"""Pictures of results: first the numbers of a picture, then the drawing.

matplotlib draws still pictures and plotly the ones that answer to a pointer.
A picture needs a result and nothing else; only `attention` runs a model.
"""
