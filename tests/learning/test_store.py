"""The store of weights, with a server on this machine in the place of the published addresses."""

import http.server
import shutil
import threading
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline.cli import main
from pipeline.core.errors import WeightsError
from pipeline.learning.weights import store
from pipeline.learning.weights.files import file_digest
from pipeline.learning.weights.loading import WeightsChoice, verify
from pipeline.learning.weights.sources import SOURCES
from pipeline.learning.weights.store import bring_in, check_file, fetch, found_at
from tests.learning import plain_networks
from tests.learning.plain_resnet import random_state

pytestmark = pytest.mark.slow
NAME = "resnet18-f37072fd.pth"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with a whole file, one cut off, and one with other numbers, under the server's roof."""
    folder = tmp_path_factory.mktemp("published")
    state = random_state(1)
    torch.save(state, folder / NAME)
    (folder / "cut.pth").write_bytes((folder / NAME).read_bytes()[:100_000])
    folded = {name: torch.zeros_like(value) if "running_mean" in name else value for name, value in state.items()}
    folded = {name: torch.ones_like(value) if "running_var" in name else value for name, value in folded.items()}
    torch.save(folded, folder / "folded.pth")
    return folder


@pytest.fixture(scope="module")
def address(published):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=published))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """An empty working folder and an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def register(machine, published, address, monkeypatch):
    """Register a file of the server as ResNet-18's, with its own digest or another."""

    def give(name=NAME, sha256=None, *, is_open=True):
        file = SOURCES["imagenet"].files["resnet18"]
        digest = sha256 or file_digest(published / name)
        changed = file._replace(url=f"{address}/{name}", sha256=digest)
        monkeypatch.setitem(SOURCES["imagenet"].files, "resnet18", changed)
        if is_open:
            monkeypatch.setattr(store, "_open", partial(urllib.request.urlopen, timeout=5))
        return machine

    return give


def kept(machine):
    folder = machine / "weights"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_file_is_fetched_checked_and_then_found(register, published, capfd):
    machine = register()
    assert main(["weights", "fetch", "imagenet/resnet18"]) == 0
    assert (machine / "weights" / NAME).read_bytes() == (published / NAME).read_bytes()
    assert file_digest(published / NAME) in capfd.readouterr().err
    assert verify(WeightsChoice(source="imagenet", backbone="resnet18")).sha256 == file_digest(published / NAME)
    assert main(["weights", "fetch", NAME]) == 0  # again, by the name of the file
    assert "is there already" in capfd.readouterr().err
    assert main(["weights", "verify"]) == 0
    assert "ok    imagenet/resnet18" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("name", "sha256", "told"),
    [
        (NAME, "0" * 8, "wrong digest: expected SHA-256 00000000"),
        ("cut.pth", None, "truncated or damaged"),
        ("folded.pth", None, "20 of 20 batch normalisations"),
        ("absent.pth", "0" * 8, "cannot be fetched"),
    ],
)
def test_what_is_wrong_is_never_kept(register, name, sha256, told):
    machine = register(name, sha256)
    with pytest.raises(WeightsError, match=told):
        fetch("imagenet", "resnet18")
    assert kept(machine) == []


def test_without_a_network_the_way_by_hand_is_told(register, capfd, monkeypatch):
    machine = register()

    def unreachable(_):
        message = "Name or service not known"
        raise urllib.error.URLError(message)

    monkeypatch.setattr(store, "_open", unreachable)
    assert main(["weights", "fetch", "imagenet/resnet18"]) == 2
    told = capfd.readouterr().err
    assert "cannot be fetched (Name or service not known)" in told
    assert "(47 MB), carry the file here, and bring it in with python -m pipeline weights import" in told
    assert kept(machine) == []


def test_only_https_is_used(register, address):
    register(is_open=False)
    with pytest.raises(WeightsError, match="without https"):
        fetch("imagenet", "resnet18")
    redirected = (urllib.request.Request("https://example.org"), None, 302, "Found", {}, f"{address}/{NAME}")
    with pytest.raises(urllib.error.URLError, match="without https"):
        store._HttpsOnly().redirect_request(*redirected)
    secure = (*redirected[:-1], "https://example.org/other")
    assert store._HttpsOnly().redirect_request(*secure).full_url == "https://example.org/other"


def test_what_nobody_may_hand_out_is_not_fetched(machine):
    with pytest.raises(WeightsError, match=r"cannot be fetched by a program[\s\S]*github.com/BMEII-AI/RadImageNet"):
        fetch("radimagenet", "resnet50")


def test_a_file_carried_by_hand_is_recognised_by_its_digest(register, published):
    machine = register(is_open=False)
    carried = machine / "from-the-stick.bin"
    shutil.copyfile(published / NAME, carried)
    assert bring_in(carried)[:2] == ("imagenet", "resnet18")
    assert kept(machine) == [NAME]
    assert bring_in(machine / "weights" / NAME)[2].name == NAME  # already in its place
    assert found_at("imagenet", "resnet18").name == NAME


def test_radimagenet_is_recognised_by_its_names_and_its_digest_is_told(machine, capfd):
    state = plain_networks.random_values(plain_networks.densenet121_shapes(), 2)
    wrapped = {f"backbone.0.{name.removeprefix('features.')}": value for name, value in state.items()}
    torch.save({name: value for name, value in wrapped.items() if "classifier" not in name}, machine / "DenseNet121.pt")
    assert main(["weights", "import", "DenseNet121.pt"]) == 0
    told = capfd.readouterr().out
    digest = file_digest(machine / "DenseNet121.pt")
    assert f"weights: {{source: radimagenet, sha256: {digest}}}" in told
    choice = WeightsChoice(source="radimagenet", backbone="densenet121", sha256=digest)
    assert verify(choice).path.name == "radimagenet-DenseNet121.pt"
    assert main(["weights", "verify"]) == 0
    assert "no digest is published" in capfd.readouterr().out


def test_medicalnets_file_is_compared_with_a_network_for_volumes(machine, monkeypatch):
    shapes = plain_networks.medicalnet_shapes((2, 2, 2, 2), bottleneck=False)
    path = machine / "resnet_18_23dataset.pth"
    torch.save({"state_dict": plain_networks.random_values(shapes, 3)}, path)
    files = SOURCES["medicalnet"].files
    monkeypatch.setitem(files, "resnet18", files["resnet18"]._replace(sha256=file_digest(path)))
    assert bring_in(path)[:2] == ("medicalnet", "resnet18")
    monkeypatch.setitem(files, "resnet50", files["resnet50"]._replace(sha256=file_digest(path)))
    with pytest.raises(WeightsError, match="does not fit resnet50"):
        check_file("medicalnet", "resnet50", path)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mine.pth", r"no registered file[\s\S]*it holds resnet18\n.*source: file, file: mine.pth"),
        (NAME, "wrong digest: expected SHA-256 f37072fd"),
        ("cut.pth", "truncated or damaged"),
        ("absent.pth", "no such file"),
        ("x" * 300, "may not be looked up"),
    ],
)
def test_other_files_are_not_taken(machine, published, name, told):
    if name in {"mine.pth", NAME, "cut.pth"}:
        shutil.copyfile(published / ("cut.pth" if name == "cut.pth" else NAME), machine / name)
    with pytest.raises(WeightsError, match=told):
        bring_in(Path(name))
    assert kept(machine) == []


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(WeightsError, match="Is a directory"):
        file_digest(tmp_path)


def test_verify_tells_every_fault_and_fails(register, published, capfd):
    machine = register("folded.pth", is_open=False)
    (machine / "weights").mkdir()
    shutil.copyfile(published / "folded.pth", machine / "weights" / NAME)
    (machine / "weights" / "vgg16_bn-6c64b313.pth").write_bytes(b"half of it")
    assert main(["weights", "verify"]) == 2
    told = capfd.readouterr().out
    assert "bad   imagenet/resnet18" in told
    assert "20 of 20 batch normalisations" in told
    assert "bad   imagenet/vgg16_bn" in told
    assert "3 of 19 registered files are here, 2 with a fault" in told


def test_the_list_names_every_file_its_licence_and_its_place(register, published, capfd):
    machine = register(is_open=False)
    (machine / "home/hub/checkpoints").mkdir(parents=True)
    shutil.copyfile(published / NAME, machine / "home/hub/checkpoints" / NAME)
    assert main(["weights", "list"]) == 0
    told = capfd.readouterr().out
    for source, facts in SOURCES.items():
        assert f"{source}: {facts.title}\n  licence: {facts.licence}" in told
        assert all(f"{source}/{backbone}" in told for backbone in facts.files)
    assert "home/hub/checkpoints" in next(line for line in told.splitlines() if line.startswith("imagenet/resnet18"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lits"], "choose list, fetch, verify, import"),
        (["fetch"], "fetch needs an entry"),
        (["import"], "import needs the file"),
        (["fetch", "imagenet/resnet19"], "no registered file"),
    ],
)
def test_wrong_words_are_errors_for_the_user(machine, capfd, words, told):
    assert main(["weights", *words]) == 2
    assert told in capfd.readouterr().err
