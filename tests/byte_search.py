"""A search for identifiers in every byte that a study leaves outside its restricted folder."""

import base64
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.phantom.manifest import Manifest

TEXT = frozenset({".html", ".json", ".md", ".svg", ".tsv", ".txt", ".log"})  # may hold base64 anywhere
FEWEST_UIDS = 20


def forms(token: str) -> Iterator[bytes]:
    """Give the ways in which a token may stand in bytes."""
    for text in {token, token.lower(), token.upper(), token.title()}:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            yield text.encode(encoding)


def contents(path: Path) -> Iterator[bytes]:
    """Give a file's bytes and name, and what is packed in them: zlib streams (PDF, PNG) and base64."""
    raw = path.read_bytes()
    yield raw
    yield path.name.encode()
    for found in re.finditer(rb"stream\r?\n|IDAT|zTXt|iTXt", raw):
        try:
            yield zlib.decompressobj().decompress(raw[found.end() :], 50_000_000)
        except zlib.error:
            continue
    # Snakemake names its own files by the base64 of paths.
    for coded in re.findall(
        rb"[A-Za-z0-9+/_-]{16,}", path.name.encode() + b"\n" + (raw if path.suffix in TEXT else raw[:20_000])
    ):
        for start in range(4):
            part = coded[start:].replace(b"_", b"/").replace(b"-", b"+")
            yield base64.b64decode(part[: len(part) // 4 * 4])


def public_files(study: Path) -> list[Path]:
    places = [study / name for name in ("results", "reports", "logs", ".snakemake", "terminal.txt")]
    files = [path for place in places for path in (place.rglob("*") if place.is_dir() else [place])]
    return [path for path in files if path.is_file() and "restricted" not in path.parts]


def leaks(files: list[Path], tokens: set[str]) -> list[str]:
    pattern = re.compile(b"|".join(re.escape(form) for token in sorted(tokens) for form in sorted(set(forms(token)))))
    return [str(path) for path in files if any(pattern.search(part) for part in contents(path))]


def public_leaks(study: Path, manifest: Manifest) -> list[str]:
    """Search what a study left for the planted canaries and for every original UID."""
    files = public_files(study)
    uids = {token for token in manifest.identifiers() if token[0].isdigit()}
    if not files or len(uids) < FEWEST_UIDS:
        message = "nothing to search, or nothing to search for"
        raise ValueError(message)
    joined = re.compile(b"|".join(re.escape(uid.encode()) for uid in sorted(uids)))
    found = [str(path) for path in files if any(joined.search(part) for part in contents(path))]
    return sorted({*found, *leaks(files, {manifest.stem})})
