"""What is ablated, and how the model answers."""
