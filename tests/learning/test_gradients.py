import numpy as np
import pytest
import torch

from pipeline.core.errors import TrainingError
from pipeline.learning.criteria import Criterion
from pipeline.learning.inputs.devices import Placement
from pipeline.learning.loop.checkpoints import StateFolder
from pipeline.learning.loop.finetuning import fine_tune
from pipeline.learning.loop.gradients import differentiate
from tests.learning.test_finetuning import fold_data, network, recipe, task

pytestmark = pytest.mark.slow
PLACE = Placement("cpu", "float32", 2)
WEIGHTS = torch.tensor([0.3, 1.7])


def batch(count: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 32, 32, generator=generator), torch.tensor([0, 1, 1, 0, 0, 0, 0][:count])


def gradients(made: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in made.parameters()])


@pytest.mark.parametrize("gamma", [None, 2.0])
@pytest.mark.parametrize("pieces", [2, 3, 7])
def test_pieces_have_the_gradient_of_the_whole_batch(gamma, pieces):
    """The classes of the pieces differ, so that dividing each by its own weights would be wrong."""
    images, truth = batch()
    criterion = Criterion(WEIGHTS, 0.05, gamma)
    made = network().eval()
    whole = differentiate(made, images, truth, criterion, PLACE, pieces=1, smallest=1)
    expected = gradients(made)
    parts = differentiate(made, images, truth, criterion, PLACE, pieces=pieces, smallest=1)
    assert (parts.pieces, whole.pieces) == (pieces, 1)
    assert float(parts.loss) == pytest.approx(float(whole.loss), abs=1e-6)
    assert float((gradients(made) - expected).abs().max()) < 1e-5


class _Small(torch.nn.Module):
    """A network on a device with room for so many images."""

    def __init__(self, inside: torch.nn.Module, room: int, error: Exception) -> None:
        super().__init__()
        self.inside, self.room, self.error = inside, room, error

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.room:
            raise self.error
        return self.inside(images)


GPU_FULL = torch.OutOfMemoryError("CUDA out of memory")
PROCESSOR_FULL = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate ...")


@pytest.mark.parametrize("error", [GPU_FULL, PROCESSOR_FULL])
def test_out_of_memory_the_batch_goes_on_in_pieces(error, capsys):
    images, truth = batch()
    criterion, made = Criterion(WEIGHTS, 0.05), network().eval()
    differentiate(made, images, truth, criterion, PLACE, pieces=1, smallest=1)
    expected = gradients(made)
    done = differentiate(_Small(made, 2, error), images, truth, criterion, PLACE, pieces=1, smallest=1)
    assert done.pieces == 4
    assert float((gradients(made) - expected).abs().max()) < 1e-5
    assert "batches of 7 go on in 4 pieces" in capsys.readouterr().err


def test_where_the_smallest_piece_does_not_fit_training_stops_with_advice():
    images, truth = batch()
    none = _Small(network(), 0, GPU_FULL)
    with pytest.raises(TrainingError, match=r"out of memory with 1 images[\s\S]*smaller"):
        differentiate(none, images, truth, Criterion(WEIGHTS, 0.0), PLACE, pieces=1, smallest=1)
    with pytest.raises(TrainingError, match="out of memory with 3 images"):  # normalisation learns from two or more
        differentiate(
            _Small(network(), 1, GPU_FULL), images, truth, Criterion(WEIGHTS, 0.0), PLACE, pieces=1, smallest=2
        )


def test_other_faults_are_not_taken_for_a_lack_of_memory():
    images, truth = batch()
    broken = _Small(network(), 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        differentiate(broken, images, truth, Criterion(WEIGHTS, 0.0), PLACE, pieces=1, smallest=1)


def test_a_training_out_of_memory_ends_as_one_with_room_enough(tmp_path, monkeypatch):
    """The weights agree up to the order of sums; the state remembers the pieces."""
    start = task(("layer4", "head"), is_pretrained=True)
    numbers = recipe(epochs=2, learning_rate=1e-6)
    plain, small = network(), network()
    fine_tune(plain, fold_data(), numbers, start, StateFolder(tmp_path / "a", "k"))
    forward, calls = small.forward, []

    def full(images):
        if torch.is_grad_enabled() and len(images) > 5:
            calls.append(len(images))
            raise GPU_FULL
        return forward(images)

    monkeypatch.setattr(small, "forward", full)
    states = StateFolder(tmp_path / "b", "k")
    fine_tune(small, fold_data(), numbers, start, states)
    assert len(calls) == 1
    assert states.latest().facts["pieces"] == 2
    for name, value in plain.state_dict().items():
        assert torch.allclose(value, small.state_dict()[name], atol=1e-5), name


def test_one_image_cannot_teach_normalisation_its_statistics(tmp_path):
    data = fold_data()
    one = type(data)(**{**vars(data), "train_rows": np.array([0]), "train_classes": np.array([0])})
    with pytest.raises(TrainingError, match="one image"):
        fine_tune(network(), one, recipe(epochs=1), task(), StateFolder(tmp_path, "k"))
    fine_tune(network(), one, recipe(epochs=1), task(is_pretrained=True), StateFolder(tmp_path, "k"))
