"""Removes the records of packages that an interrupted pip left half installed, so that pip installs them anew.

pip takes a package for installed as soon as its METADATA is there, and some wheels unpack that first.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path


def is_whole(package: Distribution) -> bool:
    """Whether all files that the package's record lists are there, in their full size."""
    if package.read_text("INSTALLER") is None or not package.files:
        return False  # pip writes the installer's name last
    for file in package.files:
        path = Path(str(package.locate_file(file)))
        if file.suffix != ".pyc" and (not path.is_file() or (file.size or path.stat().st_size) != path.stat().st_size):
            return False
    return True


def forget_broken(site: Path) -> list[str]:
    """Remove the `dist-info` of every package below `site` that is not whole; returns their names."""
    broken = [info for info in sorted(site.glob("*.dist-info")) if not is_whole(PathDistribution(info))]
    for info in broken:
        shutil.rmtree(info)
    return [info.name.split("-")[0] for info in broken]


if __name__ == "__main__":
    names = forget_broken(Path(sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("purelib")))
    if names:
        print(f"setup: half installed, to be installed anew: {', '.join(names)}")
