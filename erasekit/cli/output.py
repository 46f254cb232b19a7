"""Another name for `erasekit.cli.console`, until all commands import that."""

from erasekit.cli.console import *  # noqa: F403
from erasekit.cli.console import speaks as speaks
