"""What was measured: data, statistics, pictures."""
