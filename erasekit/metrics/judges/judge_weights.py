"""Weights of judges that erasekit neither ships nor fetches: read from a file of the user's."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from erasekit.errors import MissingWeightsError, ModelError
from erasekit.models.names import PICKLED
from erasekit.models.tensor_files import checksum


def load_weights(network: nn.Module, path: str, judge: str, source: str) -> str:
    """Read the weights of `network` from a safetensors file, freeze it, and give their hash.

    Args:
        network: whose parameters and buffers the file holds, under their names.
        path: the file; "" where the user named none.
        judge: name of the judge, for messages.
        source: what to convert, for messages.

    Raises:
        MissingWeightsError: no file was named.
        ModelError: the file can't be read, is a pickle, or is of another network.
    """
    if not path:
        raise MissingWeightsError(
            f"{judge} needs its weights as a file: name one with "
            f"--weights {judge}=FILE.safetensors ({source}, converted)."
        )
    file = Path(path).expanduser()
    refuse_pickle(file)
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"The weights {path!r} of {judge} can't be read: {error}.") from error
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        own, found = set(network.state_dict()), set(state)
        odd = sorted(own ^ found) or ["a tensor of another shape"]
        raise ModelError(
            f"The weights {path!r} are not those of {judge} ({odd[0]}); convert {source}."
        ) from error
    network.requires_grad_(False).eval()
    return checksum(network.state_dict())


def refuse_pickle(file: Path) -> None:
    """Refuse weights that could run code while they are read.

    Raises:
        ModelError: the file is a pickle, going by its name.
    """
    if file.suffix in PICKLED:
        raise ModelError(
            f"The weights {str(file)!r} are a pickle, which can run code and is not read; convert "
            f'it with: python -c "import torch, safetensors.torch as s; '
            f"s.save_file(torch.load('{file}', weights_only=True, map_location='cpu'), "
            f"'{file.with_suffix('.safetensors')}')\"."
        )
