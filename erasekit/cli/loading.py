"""Another name for `erasekit.cli.options`, until all commands import that."""

from erasekit.cli.options import chosen_model as chosen_model
from erasekit.cli.options import opened as opened
from erasekit.cli.options import read_edit as read_edit
from erasekit.cli.options import torch_dtype as torch_dtype
