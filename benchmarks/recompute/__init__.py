"""The numbers of a finished sweep once more, from its records and images, by other code.

Nothing of erasekit is imported here. JSON records are read with `json`, images with PIL; ESR, PSR,
delta and NER are worked out with numpy, and images are scored by open_clip, torch and NudeNet as
their own documentation calls them. What erasekit says is asked of its command line.
"""
