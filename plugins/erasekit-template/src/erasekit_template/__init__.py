"""A plugin for erasekit to copy; docs/writing-a-plugin.md of erasekit walks through it."""
