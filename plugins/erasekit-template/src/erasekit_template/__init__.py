"""The plugin erasekit-template."""
