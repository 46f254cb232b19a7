"""Another name for `erasekit.cli.console`, until all commands import that."""

from erasekit.cli.console import quiet_libraries as quiet_libraries
