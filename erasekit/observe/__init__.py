"""The paper's three observations (Bui et al., NeurIPS 2024), each measured and judged.

One module each: `impact`, `spectrum`, `preserve`.
"""
