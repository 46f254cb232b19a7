"""Fetch the icon sets from the npm registry, at the versions and hashes of sets.toml.

`python -m benchmarks.world fetch` puts each set into build/sets/NAME; what is there already and has
the right hash stays.
"""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from pathlib import Path

from benchmarks.world.catalog import HERE, IconSet, digest, read_sets

FILES = ("icons.json", "info.json", "package.json")
OPTIONAL = ("chars.json",)


def hash_of(icon_set: IconSet, folder: Path) -> str:
    """The hash of a fetched set: of icons.json, or of all pictures with their names."""
    if not icon_set.package:
        icons = folder / icon_set.name / "icons.json"
        return digest(icons.read_bytes()) if icons.exists() else ""
    pictures = sorted((folder / icon_set.name).glob("*.webp"))
    lines = [f"{path.name} {digest(path.read_bytes())}" for path in pictures]
    return digest("\n".join(lines).encode())


def fetch_from_npm(icon_set: IconSet, target: Path) -> None:
    """Unpack what the recipe reads of the set's npm package into `target`."""
    with tempfile.TemporaryDirectory() as scratch:
        packed = subprocess.run(
            ["npm", "pack", "--silent", icon_set.spec], cwd=scratch, capture_output=True, text=True
        )
        archives = list(Path(scratch).glob("*.tgz"))
        if packed.returncode or not archives:
            raise RuntimeError(f"npm could not fetch {icon_set.spec}: {packed.stderr.strip()}")
        with tarfile.open(archives[0]) as archive:
            for member in archive.getmembers():
                path = Path(member.name)
                wanted = path.suffix == ".webp" if icon_set.package else path.name in FILES
                if wanted or (len(path.parts) == 2 and path.name in OPTIONAL):
                    content = archive.extractfile(member)
                    assert content is not None
                    (target / path.name).write_bytes(content.read())


def fetch(root: Path = HERE) -> Path:
    """Fetch every set that is missing and check each one's hash; returns the folder."""
    folder = root / "build" / "sets"
    for icon_set in read_sets(root / "sets.toml").values():
        if icon_set.local or hash_of(icon_set, folder) == icon_set.sha256:
            continue
        target = folder / icon_set.name
        target.mkdir(parents=True, exist_ok=True)
        fetch_from_npm(icon_set, target)
        if (found := hash_of(icon_set, folder)) != icon_set.sha256:
            raise RuntimeError(f"{icon_set.spec} has the hash {found}, sets.toml another")
        print(icon_set.spec)
    return folder
