"""Neural attention distillation, term by term and as a whole."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gifthorse.core.classifier import Classifier
from gifthorse.core.views import ModelView
from gifthorse.defenses import DEFENSES
from gifthorse.defenses.sanitization.finetuning import Finetuning
from gifthorse.defenses.sanitization.nad import Nad, attention
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training.loop import Batch
from worlds import linear_classifier, noise_images

SHORT = Nad(epochs=2, schedule="constant", samples=0, batch_size=16, lr=0.05)


def network(seed: int) -> Classifier:
    return SmallCnn(width=4).build((1, 12, 12), 3, seed).eval()


def noise_batch() -> Batch:
    images = noise_images(8, (1, 12, 12), 3)
    return Batch(images.floats(), images.labels)


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_attention_is_the_energy_of_the_channels_at_every_place(power: float) -> None:
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = attention(maps, power)
    for image in range(2):
        rows = maps[image].permute(1, 2, 0).tolist()
        energy = [[sum(abs(channel) ** power for channel in place) for place in row] for row in rows]
        length = sum(value**2 for row in energy for value in row) ** 0.5
        assert torch.allclose(found[image], torch.tensor(energy) / length, atol=1e-5)
    assert torch.allclose(attention(-7 * maps, power), found, atol=1e-5)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_a_stage_that_is_silent_has_no_attention_and_finite_gradients(power: float) -> None:
    maps = torch.zeros(2, 3, 4, 4, requires_grad=True)
    attention(maps, power).sum().backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()
    assert not attention(maps, power).any()


def test_the_loss_is_cross_entropy_and_the_distance_of_every_stage() -> None:
    teacher, student, batch = network(0), network(1), noise_batch()
    plain = cross_entropy(student(batch.pixels), batch.labels)
    apart = torch.zeros(())
    for stage in ("stage1", "stage2", "stage3"):
        ours, theirs = (attention(model.stage(stage, batch.pixels), 2.0) for model in (student, teacher))
        apart = apart + (ours - theirs).square().mean()
    assert apart > 1e-3
    for beta in (0.0, 1.0, 1000.0):
        found = SHORT.changed(beta=beta).distillation(teacher, student)(student, batch)
        assert torch.allclose(found, plain + beta * apart, rtol=1e-5)


def test_one_pass_shows_every_stage() -> None:
    model, passes, batch = network(0), list[Tensor](), noise_batch()
    model.network.register_forward_pre_hook(lambda _, inputs: passes.append(inputs[0]))
    maps, logits = model.stages_and_logits(batch.pixels)
    assert len(passes) == 1
    assert torch.equal(logits, model(batch.pixels))
    for name, found in zip(model.stage_names, maps, strict=True):
        assert torch.equal(found, model.stage(name, batch.pixels))


def test_the_teacher_is_the_fine_tuned_model_and_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    view, met = ModelView(network(0), noise_images(48, (1, 12, 12), 3)), list[tuple[Classifier, list[Tensor]]]()
    distil = Nad.distillation

    def watched(self: Nad, teacher: Classifier, student: Classifier) -> object:
        same = zip(student.state_dict().values(), view.model.state_dict().values(), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in same), "the student begins as it was delivered"
        met.append((teacher, [each.clone() for each in teacher.state_dict().values()]))
        return distil(self, teacher, student)

    monkeypatch.setattr(Nad, "distillation", watched)
    student = SHORT.defend(view, 0).model
    ((teacher, before),) = met
    assert not teacher.training
    assert all(weight.grad is None and not weight.requires_grad for weight in teacher.parameters())
    after = teacher.state_dict().values()
    assert all(torch.equal(now, then) for now, then in zip(after, before, strict=True))
    apart = [not torch.equal(a, b) for a, b in zip(teacher.parameters(), view.model.parameters(), strict=True)]
    assert all(apart), "it was tuned"
    assert all(weight.requires_grad for weight in student.parameters())


def test_without_attention_it_is_fine_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    view = ModelView(network(0), noise_images(48, (1, 12, 12), 3))
    tuning = Finetuning(**{name: getattr(SHORT, name) for name in Finetuning.model_fields if name != "stamped"})
    monkeypatch.setattr(Finetuning, "name", "nad")  # the seed of its batches
    without, with_attention = SHORT.changed(beta=0.0).defend(view, 0).model, SHORT.defend(view, 0).model
    plain = tuning.defend(view, 0).model
    for a, b, c in zip(without.parameters(), plain.parameters(), with_attention.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
        assert not torch.equal(a, c)


def test_it_draws_the_students_attention_to_the_teachers() -> None:
    """What is left between them is less than where cross-entropy alone is trained on."""
    teacher, view = network(0), ModelView(network(1), noise_images(48, (1, 12, 12), 3))

    @torch.no_grad()
    def left(student: Classifier) -> float:
        pairs = zip(*(model.stages_and_logits(view.clean.floats())[0] for model in (teacher, student)), strict=True)
        return sum(float((attention(a, 2.0) - attention(b, 2.0)).square().mean()) for a, b in pairs)

    def apart(beta: float) -> float:
        student = view.model.clone()
        settings = SHORT.changed(beta=beta, epochs=10)
        settings.tune(student, view.clean, 0, objective=settings.distillation(teacher, student))
        return left(student)

    assert apart(1000.0) < 0.5 * apart(0.0)


def test_whatever_has_no_stages_is_refused() -> None:
    images = noise_images(32, (1, 5, 5), 5)
    flat = ModelView(linear_classifier(torch.zeros(5, 1, 5, 5), torch.zeros(5)), images)
    assert DEFENSES.build("nad").skip(flat) == "needs a model whose stages are known"


class Parallel(nn.Module):
    """A network of someone else's, whose stages are found by watching it run."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2)
        self.answer = nn.Linear(6, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.answer(self.second(self.first(pixels).relu()).relu().mean((2, 3)))
        return logits


def test_it_works_on_any_network_whose_stages_are_found() -> None:
    model = Classifier.wrap(Parallel(), [0.5], [0.5], example_shape=(1, 12, 12)).eval()
    assert model.stage_names
    view = ModelView(model, noise_images(48, (1, 12, 12), 3))
    assert SHORT.skip(view) is None
    assert SHORT.defend(view, 0).model(view.clean.floats()).isfinite().all()
