"""What we cost and what we gain, measured beside the peers in one run; ``python -m benchmarks`` runs them all."""
