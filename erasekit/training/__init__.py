"""The Trainer and what surrounds it."""
