"""`erasekit ui`: a page in the browser to erase, look, and export."""
