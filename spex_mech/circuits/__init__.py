"""From interactions to a circuit: the fewest units that do the task alone.

Subsets are searched, run and scored here, and a circuit is explained, saved and drawn.
Nothing else in the package depends on this folder.
"""
