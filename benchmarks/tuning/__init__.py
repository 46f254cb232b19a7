"""How the defaults on icons were chosen: runs on tuning concepts, scored along the way."""
