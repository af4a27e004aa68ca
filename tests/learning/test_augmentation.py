import pytest
import torch

from pipeline.learning.inputs.augmentation import Augmentation, augment

pytestmark = pytest.mark.slow
NOTHING = {
    "rotation_degrees": 0.0,
    "translation": 0.0,
    "scale": 0.0,
    "flip": False,
    "contrast": 0.0,
    "brightness": 0.0,
    "noise": 0.0,
}
EVERYTHING = Augmentation(
    rotation_degrees=20, translation=0.1, scale=0.2, flip=True, contrast=0.3, brightness=0.2, noise=0.05
)


def images(count: int = 6, side: int = 16) -> torch.Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(0))


def only(**changes: float) -> Augmentation:
    return Augmentation(**{**NOTHING, **changes})


def test_zero_ranges_change_nothing():
    assert torch.equal(augment(images(), Augmentation(**NOTHING), 1), images())


def test_shape_and_range_stay():
    changed = augment(images(), EVERYTHING, 1)
    assert changed.shape == images().shape
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1


def test_same_seed_same_images():
    assert torch.equal(augment(images(), EVERYTHING, 3), augment(images(), EVERYTHING, 3))
    assert not torch.equal(augment(images(), EVERYTHING, 3), augment(images(), EVERYTHING, 4))


def test_a_flip_is_an_exact_mirror_image():
    changed = augment(images(), only(flip=True), 2)
    mirrored = [bool(torch.allclose(a, b.flip(-1), atol=1e-5)) for a, b in zip(changed, images(), strict=True)]
    kept = [bool(torch.allclose(a, b, atol=1e-5)) for a, b in zip(changed, images(), strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert any(mirrored)
    assert any(kept)


def test_contrast_keeps_the_mean_and_scales_the_deviation():
    grey = 0.4 + 0.2 * images()
    changed = augment(grey, only(contrast=0.3), 5)
    assert torch.allclose(changed.mean(dim=(1, 2, 3)), grey.mean(dim=(1, 2, 3)), atol=1e-6)
    gain = changed.std(dim=(1, 2, 3)) / grey.std(dim=(1, 2, 3))
    assert ((gain > 0.7) & (gain < 1.3)).all()
    assert gain.std() > 0.01


def test_brightness_shifts_by_a_constant():
    grey = 0.4 + 0.2 * images()
    shift = augment(grey, only(brightness=0.2), 5) - grey
    assert (shift.std(dim=(1, 2, 3)) < 1e-6).all()
    assert (shift.abs() <= 0.2).all()


def test_a_rotation_turns_about_the_centre_and_keeps_lengths():
    grey = torch.zeros(32, 1, 65, 65)
    grey[:, :, 32, 32] = 1.0  # the centre
    grey[:, :, 31:34, 51:54] = 1.0  # 20 pixels to the right of it
    changed = augment(grey, only(rotation_degrees=30), 6)
    axis = torch.arange(65.0) - 32
    outer = changed.clone()
    outer[:, :, 29:36, 29:36] = 0
    weight = outer.sum(dim=(1, 2, 3))
    x = (outer * axis.view(1, 1, 1, -1)).sum(dim=(1, 2, 3)) / weight
    y = (outer * axis.view(1, 1, -1, 1)).sum(dim=(1, 2, 3)) / weight
    assert changed[:, 0, 32, 32].min() > 0.95
    assert torch.allclose(torch.hypot(x, y), torch.full((32,), 20.0), atol=0.3)
    angles = torch.rad2deg(torch.atan2(y, x))
    assert angles.abs().max() <= 30
    assert angles.std() > 5


def test_the_result_does_not_depend_on_the_global_generator():
    torch.manual_seed(1)
    first = augment(images(), EVERYTHING, 9)
    torch.manual_seed(2)
    assert torch.equal(first, augment(images(), EVERYTHING, 9))
