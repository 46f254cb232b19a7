"""The recipe of the shipped model "icons": data, training, evaluation, packing."""
