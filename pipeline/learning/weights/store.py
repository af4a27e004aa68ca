"""The store of weights: fetch published files, bring them in by hand, check what is there.

Only `fetch` uses a network, only when a person calls it, and only to the registered address.
"""

import hashlib
import http.client
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.artefacts import replacing
from pipeline.core.errors import WeightsError
from pipeline.core.places import standing_at
from pipeline.core.progress import say
from pipeline.learning.networks.backbones import BACKBONES, recognise
from pipeline.learning.networks.layouts import layout_of, unwrap
from pipeline.learning.volumes.networks import build_volume_network, medicalnet_shortcut
from pipeline.learning.weights.files import file_digest, read_state, require_digest
from pipeline.learning.weights.loading import WEIGHTS_FOLDER, places_of, require_fit
from pipeline.learning.weights.sources import SOURCES, SourceFile, entries

if TYPE_CHECKING:
    from torch import Tensor

_SECONDS_WITHOUT_DATA = 30.0
_CHUNK_BYTES = 1 << 20
_BRING = "bring it in with python -m pipeline weights import FILE"


def found_at(source: str, backbone: str) -> Path | None:
    """Give the place of a published file on this machine, or None; it is not looked into."""
    return next((path for path in places_of(source, backbone) if standing_at(path) == "file"), None)


def check_file(source: str, backbone: str, path: Path) -> str:
    """Check all that can be checked without training: digest, names, shapes, numbers, statistics.

    Returns
    -------
    str
        The file's whole SHA-256.

    Raises
    ------
    WeightsError
        Naming what is wrong.
    """
    digest = require_digest(path, SOURCES[source].files[backbone].sha256)
    _require_network(source, backbone, read_state(path), path.name)
    return digest


def fetch(source: str, backbone: str) -> Path:
    """Fetch a published file into the folder ``weights``; it appears there only after its digest was right.

    Raises
    ------
    WeightsError
        If it cannot be fetched, with the way to carry it by hand; or if its digest or content is wrong.
    """
    file = SOURCES[source].files[backbone]
    if SOURCES[source].is_embedded:
        target = places_of(source, backbone)[0]
        if not target.is_file():
            raise WeightsError("the file that comes with this software is missing", where=file.name, remedy="reinstall")
        digest = check_file(source, backbone, target)
        say(f"{target} comes with this software, SHA-256 {digest}")
        return target
    target = WEIGHTS_FOLDER / file.name
    if not file.url:
        what = f"{source}/{backbone} cannot be fetched by a program; its licence: {SOURCES[source].licence}"
        remedy = f"get it from {SOURCES[source].page}, read the terms there, and {_BRING}"
        raise WeightsError(what, where="weights", remedy=remedy)
    if target.is_file():
        digest = require_digest(target, file.sha256)
        say(f"{target} is there already, SHA-256 {digest}")
        return target
    say(f"fetching {file.url}{_size(file)}")
    with replacing(target) as temporary:
        _download(file, temporary)
        _require_network(source, backbone, read_state(temporary), file.name)
    say(f"{target}: SHA-256 {file_digest(target)}")
    return target


def bring_in(path: Path) -> tuple[str, str, Path]:
    """Recognise a file by its digest, or by its names where no digest is published, and copy it into ``weights``.

    Returns
    -------
    tuple
        Source, backbone, and the copy.

    Raises
    ------
    WeightsError
        If it is no registered file, damaged, or not fit for its network.
    """
    if standing_at(path) != "file":
        raise WeightsError(
            "there is no such file, or it may not be looked up", where=str(path), remedy="name the weights file"
        )
    digest = file_digest(path)
    for source, backbone in entries():
        file = SOURCES[source].files[backbone]
        if file.sha256 and file.name == path.name:
            require_digest(path, file.sha256)
    state = read_state(path)
    source, backbone = _by_digest(digest) or _by_names(state, path, digest)
    _require_network(source, backbone, state, path.name)
    target = places_of(source, backbone)[0]
    if not (target.is_file() and target.samefile(path)):
        with replacing(target) as temporary:
            shutil.copyfile(path, temporary)
            require_digest(temporary, digest)
    return source, backbone, target


def _by_digest(digest: str) -> tuple[str, str] | None:
    published = ((pair, SOURCES[pair[0]].files[pair[1]].sha256) for pair in entries())
    return next((pair for pair, sha256 in published if sha256 and digest.startswith(sha256)), None)


def _by_names(state: dict[str, "Tensor"], path: Path, digest: str) -> tuple[str, str]:
    layout = layout_of(state)
    found = recognise(unwrap(state, layout))
    for source, backbone in entries():
        facts = SOURCES[source]
        if not facts.files[backbone].sha256 and facts.layout == layout and backbone == found:
            return source, backbone
    what = f"this is no registered file (SHA-256 {digest}); it holds {found}"
    remedy = "python -m pipeline weights list names the registered ones"
    if found in BACKBONES and layout == "plain":
        remedy = f"to use it as it is: weights: {{source: file, file: {path}, sha256: {digest}, licence: ...}}"
    raise WeightsError(what, where=path.name, remedy=remedy)


def _require_network(source: str, backbone: str, state: dict[str, "Tensor"], where: str) -> None:
    """Compare with the network that the file is for; nothing is allocated for that network."""
    import torch

    facts = SOURCES[source]
    classes = facts.output_classes or 2
    with torch.device("meta"):
        if facts.dimensions == 2:
            network = BACKBONES[backbone].build(classes)
        else:
            network = build_volume_network(backbone, classes, shortcut=medicalnet_shortcut(backbone))
    inner = unwrap(state, facts.layout)
    require_fit(network.state_dict(), inner, where=where, backbone=backbone, has_head=facts.output_classes > 0)


def _download(file: SourceFile, target: Path) -> None:
    """Copy an address into a file and compare the digest on the way."""
    digest = hashlib.sha256()
    received = 0
    try:
        with _open(file.url) as answer, target.open("wb") as stream:
            while chunk := answer.read(_CHUNK_BYTES):
                stream.write(chunk)
                digest.update(chunk)
                received += len(chunk)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        what = f"{file.url} cannot be fetched ({reason})"
        remedy = f"on a machine with a network, fetch that address{_size(file)}, carry the file here, and {_BRING}"
        raise WeightsError(what, where="weights", remedy=remedy) from error
    found = digest.hexdigest()
    if not found.startswith(file.sha256):
        what = f"wrong digest: expected SHA-256 {file.sha256}, received {received} bytes with {found}"
        raise WeightsError(what, where=file.name, remedy="try again; a proxy may have answered in its place")


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follow no redirection to an address without transport security."""

    def redirect_request(self, *request: Any) -> urllib.request.Request | None:
        if not str(request[-1]).startswith("https://"):
            message = "it leads to an address without https"
            raise urllib.error.URLError(message)
        return super().redirect_request(*request)


def _open(url: str) -> http.client.HTTPResponse:
    """Open a registered address; tests put a local server in this place."""
    if not url.startswith("https://"):
        message = "the address is without https"
        raise urllib.error.URLError(message)
    opener = urllib.request.build_opener(_HttpsOnly())
    answer: http.client.HTTPResponse = opener.open(url, timeout=_SECONDS_WITHOUT_DATA)
    return answer


def _size(file: SourceFile) -> str:
    return "" if file.megabytes is None else f" ({file.megabytes:.0f} MB)"
