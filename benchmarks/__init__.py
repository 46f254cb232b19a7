"""Speed benchmarks, and the recipe of the model that ships in the wheel."""
