"""Set functions: a model, a text or a training set, each answering masks with values.

A game joins prompts and a metric with the engine that runs the model, or with a learner.
Nothing here knows which masks a search asks for, or what becomes of the values.
"""
