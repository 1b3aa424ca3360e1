"""Which masks to ask for: integers only, no model."""
