"""How fast erasekit's default path is, beside the schedule as published."""
