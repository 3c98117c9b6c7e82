"""Packages that hold the art, with licences and authors, and how to fetch them with the clients of their registries."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from layerflow.core.atomic import whole_folder
from layerflow.mini.art.pictures import ArtError


@dataclass(frozen=True)
class Package:
    """A package of a public registry."""

    name: str
    registry: str
    """"npm", "debian" or "pypi"."""
    version: str
    licence: str
    """Licence of what is used of it."""
    authors: str
    used: str
    """What is used of it."""
    source: bool = False
    """Whether the source archive is needed (pypi only)."""

    @property
    def folder(self) -> str:
        """Folder of its files within the folder of the art, such as "npm/emojibase-data-17.0.0"."""
        if self.registry == "debian":
            return f"deb/{self.name}"
        return f"{self.registry}/{self.name.removeprefix('@').replace('/', '-')}-{self.version}"


MICROSOFT, GOOGLE = "Microsoft Corporation", "Google LLC"
EMOJI_ONE, TWITTER, MOZILLA = "Emoji One", "Twitter, Inc. and other contributors", "Mozilla Foundation"

PACKAGES: tuple[Package, ...] = (
    *(
        Package(
            f"@lobehub/fluent-emoji-anim-{part}", "npm", "1.0.0", "MIT", f"{MICROSOFT}; packaged by LobeHub",
            "animated emoji (WebP, 256x256 with alpha)",
        )
        for part in range(1, 5)
    ),
    Package("@lobehub/fluent-emoji-3d", "npm", "1.1.0", "MIT", f"{MICROSOFT}; packaged by LobeHub", "3D emoji (WebP)"),
    Package("@iconify-json/fluent-emoji", "npm", "1.2.7", "MIT", MICROSOFT, "emoji with shading (SVG)"),
    Package("@iconify-json/fluent-emoji-flat", "npm", "1.2.6", "MIT", MICROSOFT, "flat emoji (SVG)"),
    Package("@iconify-json/noto", "npm", "1.2.9", "Apache-2.0", GOOGLE, "Noto emoji (SVG)"),
    Package("@iconify-json/noto-v1", "npm", "1.2.5", "Apache-2.0", GOOGLE, "Noto emoji of 2016 (SVG)"),
    Package("@iconify-json/twemoji", "npm", "1.2.5", "CC-BY-4.0", TWITTER, "Twemoji (SVG)"),
    Package("@iconify-json/fxemoji", "npm", "1.2.2", "Apache-2.0", MOZILLA, "emoji of Firefox OS (SVG)"),
    Package("@iconify-json/emojione", "npm", "1.2.3", "CC-BY-4.0", EMOJI_ONE, "Emoji One 2.3 (SVG)"),
    Package("emojibase-data", "npm", "17.0.0", "MIT", "Miles Johnson", "names of emoji"),
    Package(
        "sweethome3d-furniture", "debian", "1.8-1", "CC0-1.0, CC-BY-3.0, CC-BY-3.0-US",
        "Emmanuel Puybaret (eTeks), Scopia, Andrew Kator and Jennifer Legaz, Reallusion, contributors of Blend Swap",
        "icons of the models of furniture",
    ),
    Package(
        "endless-sky-high-dpi", "debian", "0.9.8-1", "public domain",
        "photographers of morgueFile and Unsplash, NASA, USGS", "photographs of landscapes and cities",
    ),
    Package("@pmndrs/assets", "npm", "1.7.0", "CC0-1.0", "Poly Haven", "panoramas (OpenEXR)"),
    Package("blender-data", "debian", "3.4.1+dfsg-2", "CC0-1.0", "Greg Zaal (Poly Haven)", "panoramas (OpenEXR)"),
    Package(
        "moviepy", "pypi", "2.2.1", "CC-BY-3.0", "Blender Foundation", "the film Big Buck Bunny (in the documentation)",
        source=True,
    ),
    Package("arcade", "pypi", "3.3.3", "CC0-1.0", "Kenney", "walking characters"),
)  # fmt: skip
"""Everything that an atlas is built of."""


def package(name: str) -> Package:
    """Return the package of a name."""
    return next(package for package in PACKAGES if package.name == name)


def folder_of(art: Path, name: str) -> Path:
    """Return the folder of a fetched package.

    Raises:
        ArtError: the package has not been fetched.
    """
    folder = art / package(name).folder
    if not folder.is_dir():
        raise ArtError(f"{folder} is missing; fetch the art with `tools/atlas.py fetch`")
    return folder


def listing() -> tuple[dict[str, Any], ...]:
    """Return the packages as plain data for the index of an atlas."""
    return tuple({key: value for key, value in asdict(item).items() if key != "source"} for item in PACKAGES)


def fetch(art: Path, report: Callable[[str], None] = print) -> None:
    """Download and unpack all packages into a folder; those that are there are skipped.

    Needs `npm` for packages of npm, `apt-get` and `dpkg` for those of Debian, and pip for those of PyPI.

    Args:
        art: folder to fill, with a folder for each package (`Package.folder`).
        report: receives a line for each package.

    Raises:
        ArtError: a client is missing or a download failed; packages fetched before stay.
    """
    for item in PACKAGES:
        folder = art / item.folder
        if folder.is_dir():
            report(f"{item.name} {item.version}: already there")
            continue
        report(f"{item.name} {item.version}: fetching from {item.registry}")
        with TemporaryDirectory() as scratch, whole_folder(folder) as partial:
            _CLIENTS[item.registry](item, Path(scratch), partial)


def _run(item: Package, command: list[str], folder: Path) -> None:
    if not shutil.which(command[0]):
        raise ArtError(f"{command[0]} is needed to fetch {item.name}; install it, or unpack the package by hand")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise ArtError(f"fetching {item.name} {item.version} failed: {lines[-1]}")


def _npm(item: Package, scratch: Path, target: Path) -> None:
    _run(item, ["npm", "pack", "--silent", f"{item.name}@{item.version}"], scratch)
    with tarfile.open(next(scratch.glob("*.tgz"))) as archive:
        archive.extractall(scratch / "unpacked", filter="data")
    for inner in (scratch / "unpacked" / "package").iterdir():
        shutil.move(inner, target / inner.name)


def _debian(item: Package, scratch: Path, target: Path) -> None:
    # Mirrors keep one version of each; another one than the tested may still serve.
    _run(item, ["apt-get", "download", item.name], scratch)
    _run(item, ["dpkg", "-x", str(next(scratch.glob("*.deb"))), str(target)], scratch)


def _pypi(item: Package, scratch: Path, target: Path) -> None:
    kind = ["--no-binary", ":all:", "--no-build-isolation"] if item.source else ["--only-binary", ":all:"]
    _run(item, [sys.executable, "-m", "pip", "download", "--no-deps", *kind, f"{item.name}=={item.version}"], scratch)
    for archive in (*scratch.glob("*.whl"), *scratch.glob("*.tar.gz")):
        shutil.unpack_archive(archive, target, "zip" if archive.suffix == ".whl" else "gztar")


_CLIENTS = {"npm": _npm, "debian": _debian, "pypi": _pypi}
