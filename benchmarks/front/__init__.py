"""Fronts of erasure and harm: schedules at several lambdas, scored along the run."""
