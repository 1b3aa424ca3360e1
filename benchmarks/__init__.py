"""Scripts that measure what the project claims: ``python -m benchmarks --help`` runs them all."""
