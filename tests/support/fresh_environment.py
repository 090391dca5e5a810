"""A Python environment with this one's libraries, but without the checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

PACKAGE = "onereward"


def make_environment(folder: Path) -> Path:
    """Create a virtual environment; return its Python.

    It sees every library of this process's environment, by links, except this package, which the
    checkout's own environment links to itself.

    Example: ``subprocess.run([make_environment(tmp_path / "env"), "-c", "import torch"])``.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    libraries = folder / "libraries"
    libraries.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.name != PACKAGE and not path.name.startswith(f"{PACKAGE}-"):
            (libraries / path.name).symlink_to(path, target_is_directory=path.is_dir())
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # `addsitedir` reads the .pth files of the libraries, too; a plain line would not.
    line = f"import site; site.addsitedir({str(libraries)!r})\n"
    (site_packages / "libraries.pth").write_text(line)
    return folder / "bin" / "python"
