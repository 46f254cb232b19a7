"""How fast erasekit is beside the published schedule, at what quality."""
