"""Fetch the icon sets from the npm registry, at the versions and hashes of sets.toml.

`python -m benchmarks.icons.fetch` puts each set into build/sets/NAME; what is there already and has
the right hash stays. `--from FOLDER` copies from an existing node_modules/@iconify-json instead.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from benchmarks.icons.catalog import HERE, IconSet, digest, read_sets

FILES = ("icons.json", "info.json", "package.json")


def is_fetched(icon_set: IconSet, folder: Path) -> bool:
    """Whether the set is there, whole, in the version that sets.toml names."""
    icons = folder / icon_set.name / "icons.json"
    return icons.exists() and digest(icons.read_bytes()) == icon_set.sha256


def fetch_from_npm(icon_set: IconSet, target: Path) -> None:
    """Unpack the set's npm package into `target`."""
    with tempfile.TemporaryDirectory() as scratch:
        spec = f"{icon_set.package}@{icon_set.version}"
        packed = subprocess.run(
            ["npm", "pack", "--silent", spec], cwd=scratch, capture_output=True, text=True
        )
        archives = list(Path(scratch).glob("*.tgz"))
        if packed.returncode or not archives:
            raise RuntimeError(f"npm could not fetch {spec}: {packed.stderr.strip()}")
        with tarfile.open(archives[0]) as archive:
            for name in FILES:
                member = archive.extractfile(f"package/{name}")
                if member is None:
                    raise RuntimeError(f"{spec} holds no {name}")
                (target / name).write_bytes(member.read())


def fetch(root: Path = HERE, source: Path | None = None) -> Path:
    """Fetch every set that is missing and check each one's hash; returns the folder."""
    folder = root / "build" / "sets"
    for icon_set in read_sets(root / "sets.toml").values():
        if icon_set.local or is_fetched(icon_set, folder):
            continue
        target = folder / icon_set.name
        target.mkdir(parents=True, exist_ok=True)
        if source is None:
            fetch_from_npm(icon_set, target)
        else:
            for name in FILES:
                shutil.copyfile(source / icon_set.name / name, target / name)
        if not is_fetched(icon_set, folder):
            raise RuntimeError(
                f"{icon_set.package}: icons.json has another hash than sets.toml says; "
                f"is it version {icon_set.version}?"
            )
        print(f"{icon_set.package} {icon_set.version}")
    return folder


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="source", type=Path, help="a node_modules/@iconify-json")
    fetch(source=parser.parse_args().source)


if __name__ == "__main__":
    main()
