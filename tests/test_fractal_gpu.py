"""The trial of formulas for a GPU, run small on the processor: its pictures, its training, the rule of its verdict."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.learning.inputs.devices import Placement, choose_placement
from pipeline.learning.inputs.feeding import feed
from pipeline.learning.weights.files import file_digest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
PLACEMENT = Placement("cpu", "float32", 1)
CLASSES, SIZE = 32, 32


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    sys.path.insert(0, str(BENCHMARKS))  # as when a script there is run
    choose_placement("cpu", "float32", 1)
    yield
    sys.path.remove(str(BENCHMARKS))
    torch.set_num_threads(before)


def part(name):
    return importlib.import_module(f"fractal_{name}")


@pytest.fixture(scope="module")
def renderer(one_thread):
    return part("renderers").Renderer(7, CLASSES, SIZE, "cpu")


@pytest.fixture(scope="module")
def larger(one_thread):
    return part("renderers").Renderer(7, CLASSES, 64, "cpu")


# --- random numbers


def test_the_digest_is_that_of_splitmix64():
    numbers = part("numbers")
    # The first outputs of the authors' generator from state 0.
    states = torch.tensor([0, numbers._STEP, 2 * numbers._STEP + 2**64])
    found = [int(value) % 2**64 for value in numbers.mixed(states)]
    assert found == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_numbers_are_uniform_and_their_own_for_each_key_and_stream():
    numbers = part("numbers")
    keys = numbers.keys_for(3, torch.arange(40))
    found = numbers.uniform(keys, 1, 2000)
    assert float(found.min()) >= 0
    assert float(found.max()) < 1
    counts = torch.histc(found, 20, 0, 1)  # of 80 000: 4000 in each, deviation 62
    assert float((counts - 4000).abs().max()) < 6 * 62
    assert float(torch.corrcoef(found).fill_diagonal_(0).abs().max()) < 0.13  # 780 pairs, deviation 0.022
    assert torch.equal(found[5:7], numbers.uniform(keys[5:7], 1, 2000))
    other = numbers.uniform(keys, 2, 2000)
    assert abs(float(torch.corrcoef(torch.stack([found.flatten(), other.flatten()]))[0, 1])) < 0.02


# --- pictures


def test_equal_arguments_give_equal_pictures_whatever_else_is_drawn(renderer, monkeypatch):
    renderers = part("renderers")
    classes, variants = torch.arange(12).repeat(2), torch.arange(24) * 1_000_003 - 5
    whole = renderer.draw(classes, variants)
    assert torch.equal(whole, renderer.draw(classes, variants))
    alone = torch.cat([renderer.draw(classes[at : at + 1], variants[at : at + 1]) for at in range(24)])
    turned = renderer.draw(classes.flip(0), variants.flip(0)).flip(0)
    monkeypatch.setattr(renderers, "MOST_AT_ONCE", 1)
    for other in (turned, alone, renderer.draw(classes, variants)):
        changed = (whole - other).abs() * 255
        assert float(changed.max()) < 1.01  # a grey of 256, by a rounding
        assert float((changed > 0).float().mean()) < 1e-3
        assert not bool(changed[classes % 4 == 1].any())  # leaves know no sums


def test_a_class_does_not_depend_on_how_many_there_are(renderer):
    fewer = part("renderers").Renderer(7, 10, SIZE, "cpu")
    classes, variants = torch.arange(10), torch.arange(10)
    assert torch.equal(fewer.draw(classes, variants), renderer.draw(classes, variants))
    other = part("renderers").Renderer(8, 10, SIZE, "cpu").draw(classes, variants)
    assert float((fewer.draw(classes, variants) - other).abs().mean(dim=(1, 2)).min()) > 0.02


def test_pictures_are_greys_in_range_never_blank_and_no_two_alike(renderer):
    classes, variants = torch.arange(CLASSES).repeat(4), torch.arange(4 * CLASSES)
    found = renderer.draw(classes, variants)
    assert found.shape == (4 * CLASSES, SIZE, SIZE)
    assert bool(((found >= 0) & (found <= 1)).all())
    assert torch.equal((found * 255).round() / 255, found)
    assert float(found.std(dim=(1, 2)).min()) > 0.01
    distances = torch.cdist(found.flatten(1), found.flatten(1)).fill_diagonal_(torch.inf)
    assert float(distances.min()) > 0.3


def bands(pictures):
    """Contrast of each of four octaves, shape (pictures, 4): what an average over pixels takes away each time."""
    found = []
    for _ in range(4):
        halved = torch.nn.functional.avg_pool2d(pictures[:, None], 2)
        found.append((pictures - torch.nn.functional.interpolate(halved, scale_factor=2)[:, 0]).std(dim=(1, 2)))
        pictures = halved[:, 0]
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("family", range(4))
def test_there_is_structure_at_every_scale_which_white_noise_has_not(larger, family):
    classes = torch.arange(family, CLASSES, 4).repeat(6)
    contrast = bands(larger.draw(classes, torch.arange(len(classes)))).median(dim=0).values
    assert float(contrast.min()) > 0.02
    noise = bands(torch.rand(8, 64, 64, generator=torch.Generator().manual_seed(1))).median(dim=0).values
    assert float(noise[3] / noise[0]) < 0.2
    assert float(contrast[3] / contrast[0]) > 0.3


def described(pictures):
    """Describe pictures, whatever their rotation, shift and contrast: greys, and the spectrum by direction."""
    flat = pictures.flatten(1)
    greys = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)
    spectrum = torch.fft.fft2(greys.view_as(pictures)).abs()
    size = pictures.shape[1]
    row = torch.fft.fftfreq(size, 1 / size)
    radius = torch.sqrt(row[:, None] ** 2 + row**2).round().long().clamp(max=size // 2)
    rings = [torch.log(spectrum[:, radius == one] + 1e-3) for one in range(1, size // 2)]
    shape = torch.stack([greys.abs().pow(power).mean(1).log() for power in (0.5, 3.0, 4.0)], dim=1)
    return torch.cat(
        [torch.stack([one.mean(1) for one in rings], 1), torch.stack([one.std(1) for one in rings], 1), shape], 1
    )


@pytest.mark.parametrize(("family", "least"), [(0, 0.45), (1, 0.25), (2, 0.5), (3, 0.5)])
def test_classes_of_a_family_can_be_told_apart(larger, family, least):
    own, known, asked = torch.arange(family, CLASSES, 4), 24, 12
    classes = own.repeat_interleave(known + asked)
    found = described(larger.draw(classes, torch.arange(len(classes))))
    found = ((found - found.mean(0)) / found.std(0)).view(len(own), known + asked, -1)
    means = found[:, :known].mean(1)
    nearest = torch.cdist(found[:, known:].flatten(0, 1), means).argmin(1)
    accuracy = float((nearest == torch.arange(len(own)).repeat_interleave(asked)).float().mean())
    assert accuracy > least  # of 96 pictures of 8 classes, in any view: chance 0.125 with a deviation of 0.034


def test_the_sheets_show_every_family(renderer, tmp_path):
    from PIL import Image

    renderers = part("renderers")
    renderers.write_sheets(renderer, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["dead-leaves.png", "iterated-functions.png", "spectral-textures.png", "visual-atoms.png"]
    with Image.open(tmp_path / names[0]) as sheet:
        assert sheet.size == (10 * SIZE, 8 * SIZE)
        tile = np.array(sheet)[:SIZE, SIZE : 2 * SIZE] / 255
    assert np.allclose(tile, renderer.draw(torch.tensor([1]), torch.tensor([1]))[0], atol=1e-6)


def test_no_part_of_a_picture_is_left_on_another_device(monkeypatch):
    # Where there is no GPU, PyTorch's device without values refuses to mix with the processor just as well.
    def counted(places, minlength):
        return torch.empty(minlength, dtype=torch.int64, device=places.device)

    monkeypatch.setattr(torch, "bincount", counted)  # there is none without values
    found = part("renderers").Renderer(7, 8, SIZE, "meta").draw(torch.arange(8), torch.arange(8))
    assert found.device.type == "meta"
    assert found.shape == (8, SIZE, SIZE)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_nearly_the_same_pictures(renderer):
    there = part("renderers").Renderer(7, CLASSES, SIZE, "cuda")
    classes, variants = torch.arange(CLASSES), torch.arange(CLASSES)
    assert torch.equal(there.draw(classes, variants), there.draw(classes, variants))
    difference = (there.draw(classes, variants).cpu() - renderer.draw(classes, variants)).abs().mean(dim=(1, 2))
    assert float(difference.median()) < 2e-3  # a point of a fractal may fall on the other side of a pixel's edge
    assert float(difference.max()) < 0.05


# --- training


def test_inputs_are_new_pictures_in_every_batch_and_the_same_ones_for_validation(renderer):
    source = part("training").DrawnSource(renderer, PLACEMENT)
    rows = [np.array([0, 33, 2]), np.array([65, 1])]
    fed = list(feed(source, rows, [11, 12]))
    assert all(torch.equal(one, source.train(own, seed)) for one, own, seed in zip(fed, rows, (11, 12), strict=True))
    assert fed[0].shape == (3, 3, SIZE, SIZE)
    assert not torch.equal(source.train(rows[0], 12), fed[0])
    assert torch.equal(source.train(rows[0][1:], 11), fed[0][1:])
    plain = source.plain(rows[0])
    assert torch.equal(plain, next(iter(feed(source, rows))))
    grey = plain * 0.25 + 0.5
    assert torch.equal(plain, source.plain(rows[0]))
    assert float(grey.min()) >= 0
    assert float(grey.max()) <= 1
    same_class = source.plain(np.array([1, 33]))  # of one class, and two pictures
    assert not torch.equal(same_class[0], same_class[1])


def test_epochs_are_judged_at_the_best_temperature_and_the_loop_is_as_before_afterwards():
    from scipy.optimize import minimize_scalar

    from pipeline.learning.criteria import weighted_loss
    from pipeline.learning.loop import finetuning

    before = finetuning.calibrated_loss, finetuning.validation_auroc
    classes = np.arange(300) % 100
    logits = np.random.default_rng(1).normal(0, 5, (300, 100))
    logits[np.arange(300), classes] += 9
    with part("training")._judged_by_temperature("cpu"):
        found = finetuning.calibrated_loss(logits, classes, np.ones(100))
        assert finetuning.validation_auroc(logits, classes) is None
    centred = logits - logits.mean(0)
    best = minimize_scalar(lambda s: weighted_loss(centred * np.exp(s), classes, np.ones(100)), (-4, 2)).fun
    assert best - 1e-3 < found < best + 5e-3
    assert (finetuning.calibrated_loss, finetuning.validation_auroc) == before


# --- the verdict


def scores(own, rivals, spread=0.01):
    """Scores of both sets: means of the network's two blocks, and of each rival's."""
    verdict = part("verdict")
    three = np.array([-1.0, 0.0, 1.0]) * spread

    def networks(means, count):
        return [[[mean + shift] * 3 for mean in means] for shift in np.linspace(-spread, spread, count)]

    one_set = {
        verdict.OWN: [[list(mean + three) for mean in own]],
        verdict.RIVALS[0]: networks(rivals[0], 5),
        verdict.RIVALS[1]: networks(rivals[1], 5),
        verdict.RIVALS[2]: [[list(rivals[2] + three)]],
    }
    return {name: dict(one_set) for name in verdict.SETS}


def test_what_is_better_by_more_than_the_spread_ships():
    verdict = part("verdict")
    found = verdict.compared(scores((0.90, 0.80), ((0.85, 0.82), (0.84, 0.86), 0.87)))
    assert verdict.ships(found)
    assert {(one.set, one.rival) for one in found} == {(s, r) for s in verdict.SETS for r in verdict.RIVALS}
    re_estimated = found[1]
    assert (re_estimated.own.block, re_estimated.other.block) == ("4", "3")
    assert re_estimated.own.mean - re_estimated.other.mean == pytest.approx(0.04)
    # Deviations of (-1, 0, 1) and of (-1, -1/2, 0, 1/2, 1), times 0.01.
    assert re_estimated.wanted == pytest.approx(0.01 * np.sqrt(1 + 2.5 / 4))
    assert re_estimated.other.best == pytest.approx(0.87)
    assert "target fractal_radiographs_minus_random_networks_re-estimated measured 0.0400" in re_estimated.line()
    assert not verdict.ships(found[:-1])


@pytest.mark.parametrize(
    ("own", "rivals"),
    [
        ((0.90, 0.80), ((0.85, 0.82), (0.84, 0.86), 0.887)),  # Gabor energies within the spread
        ((0.86, 0.80), ((0.855, 0.82), (0.7, 0.7), 0.7)),  # random networks within it
        ((0.86, 0.80), ((0.7, 0.7), (0.7, 0.855), 0.7)),  # in their other block
        ((0.7, 0.6), ((0.85, 0.82), (0.84, 0.86), 0.87)),  # worse
    ],
)
def test_what_is_not_better_than_each_rival_does_not_ship(own, rivals):
    verdict = part("verdict")
    assert not verdict.ships(verdict.compared(scores(own, rivals)))


def test_one_set_is_not_enough_and_a_single_network_as_good_is_enough_to_fail():
    verdict = part("verdict")
    good, bad = (0.90, 0.80), (0.85, 0.80)
    rivals = ((0.82, 0.81), (0.8, 0.8), 0.82)
    both = scores(good, rivals)
    assert verdict.ships(verdict.compared(both))
    mixed = {**both, "mednist": scores(bad, ((0.86, 0.8), (0.8, 0.8), 0.8))["mednist"]}
    assert not verdict.ships(verdict.compared(mixed))
    with pytest.raises(KeyError):
        verdict.compared({"radiographs": both["radiographs"]})
    random = both["mednist"][verdict.RIVALS[0]]
    lucky = {**both["mednist"], verdict.RIVALS[0]: [*random[:4], [[0.901] * 3, [0.8] * 3]]}
    found = verdict.compared({**both, "mednist": lucky})
    assert found[3].own.mean - found[3].other.mean > found[3].wanted
    assert not verdict.ships(found)


def test_scores_that_are_no_numbers_or_have_no_spread_give_no_verdict():
    verdict = part("verdict")
    for repetitions in ([0.9], [0.9, float("nan")]):
        with pytest.raises(ValueError, match="two finite scores"):
            verdict.better_block([[repetitions, repetitions]])


# --- the script


def run(monkeypatch, *words):
    script = part("gpu")
    monkeypatch.setattr(sys, "argv", ["fractal_gpu.py", *map(str, words)])
    monkeypatch.setattr(script, "_BEGAN", script.time.monotonic())
    script.main()


SMALL = ["--device=cpu", "--precision=float32", "--threads=1", "--classes=8", "--rows=64", "--size=32", "--batch=16"]


def real_pictures(count, classes):
    import weights_real

    rng = np.random.default_rng(count)
    truth = np.arange(count) % classes
    pixels = rng.integers(0, 160, (count, 32, 32)).astype(np.uint8)
    pixels[:, 8:24, 8:24] += (truth * 20)[:, None, None].astype(np.uint8)
    return weights_real.Real(pixels, truth, np.arange(count))


@pytest.mark.slow
def test_it_trains_goes_on_writes_judges_and_records(monkeypatch, tmp_path, capsys):
    import weights_real

    from tests.learning.tiny_study import build_tiny

    backbones = part("training").BACKBONES
    monkeypatch.setitem(backbones, "resnet18", backbones["resnet18"]._replace(build=build_tiny, features=6))
    whole, pieces = (("--state", tmp_path / name, "--output", tmp_path / f"{name}.safetensors") for name in "ab")
    run(monkeypatch, *SMALL, "--epochs", 2, *whole)
    shown = capsys.readouterr().out
    assert "no verdict yet: give --judge" in shown
    assert "remains a step by hand" in shown
    facts = json.loads((tmp_path / "a.json").read_text())
    assert facts["pictures_seen"] == 128
    assert set(facts["pictures_per_second"]) == set(part("renderers").FAMILIES)
    assert facts["chance"] == 1 / 8
    assert not part("gpu").RECORD.is_file() or "processor" not in part("gpu").RECORD.read_text()
    # Ended at once, and given again: the same bytes as without an interruption.
    run(monkeypatch, *SMALL, "--epochs", 2, *pieces, "--run-minutes", 0)
    assert "give the same command again" in capsys.readouterr().out
    record = tmp_path / "record.json"
    run(monkeypatch, *SMALL, "--epochs", 2, *pieces, "--record", record)
    assert file_digest(tmp_path / "a.safetensors") == file_digest(tmp_path / "b.safetensors")
    assert "ships" not in json.loads(record.read_text())
    # The verdict, from a smaller table.
    for name, value in {"NETWORKS": 2, "FOLD_SEEDS": 2, "DRAWS": 2}.items():
        monkeypatch.setattr(weights_real, name, value)
    monkeypatch.setattr(weights_real, "_fitted", lambda own, truth, parts: weights_real._model(0.1).fit(own, truth))
    monkeypatch.setattr(weights_real, "radiographs", lambda folder, size: real_pictures(40, 2))
    monkeypatch.setattr(weights_real, "mednist", lambda folder, size: real_pictures(45, 3))
    folders = ["--radiographs", tmp_path, "--mednist", tmp_path]
    capsys.readouterr()
    run(monkeypatch, "--judge", "--threads", 1, *pieces[2:], *folders, "--record", record)
    shown = capsys.readouterr().out
    facts = json.loads(record.read_text())
    assert facts["ships"] is ("verdict: ships" in shown)
    assert shown.count("target fractal_") == 6
    verdict = part("verdict")
    assert facts["ships"] == verdict.ships(verdict.compared(facts["scores"]))
    assert [len(facts["scores"]["mednist"][group]) for group in (verdict.OWN, *verdict.RIVALS)] == [1, 2, 2, 1]
    part("gpu").last_measured(record)
    again = capsys.readouterr().out
    assert f"last measured: {facts['date']} on processor" in again
    assert again.splitlines()[-1] == shown.splitlines()[-1 - len(part("gpu").BY_HAND.splitlines()) - 1]


@pytest.mark.slow
def test_epochs_are_planned_once_by_the_speed_that_was_measured(monkeypatch, tmp_path, capsys):
    from tests.learning.tiny_study import build_tiny

    training = part("training")
    tiny = training.BACKBONES["resnet18"]._replace(build=build_tiny, features=6)
    monkeypatch.setitem(training.BACKBONES, "resnet18", tiny)
    trial = training.Trial(seed=1, classes=4, rows=16, held_out=8, size=32, epochs=0, batch_size=8, learning_rate=1e-4)
    source = training.source_of(trial, PLACEMENT)
    epochs, speed = training.planned_epochs(trial, source, tmp_path, 60.0)
    assert epochs == int(0.92 * 60 * speed / 16) > 1
    assert training.planned_epochs(trial, source, tmp_path, 6000.0) == (epochs, speed)
    monkeypatch.setattr(training, "fine_tune", lambda *_: pytest.fail("measured again"))
    assert training.planned_epochs(trial, source, tmp_path, 60.0) == (epochs, speed)


def test_without_a_gpu_it_says_so_and_shows_the_last_numbers_or_that_there_are_none(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run(monkeypatch, "--record", tmp_path / "none.json")
    shown = capsys.readouterr().out
    assert "no GPU here: nothing is measured" in shown
    assert "last measured: never measured" in shown


def test_a_network_is_not_judged_with_the_facts_of_another(monkeypatch, tmp_path):
    output = tmp_path / "n.safetensors"
    output.write_bytes(b"another")
    output.with_suffix(".json").write_text(json.dumps({"sha256": "0"}))
    with pytest.raises(SystemExit, match=r"n\.json is of another network"):
        run(monkeypatch, "--judge", "--output", output)
