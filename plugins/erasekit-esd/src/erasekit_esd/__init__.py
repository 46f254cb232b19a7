"""ESD for erasekit: erased concepts are steered away from by negative guidance."""
