"""Inverted images: each term of their loss, what they show of a real model, and who is given them."""

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, l1_loss

from gifthorse.bench.views import view_of
from gifthorse.contracts.truth import leaks
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.defense import Defense
from gifthorse.core.errors import NotApplicableError, RequestError
from gifthorse.core.images import Images
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.seeds import derive
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.core.views import DataFreeView, ModelView
from gifthorse.defenses import DEFENSES
from gifthorse.defenses.combination.inverted_images import InvertedImages
from gifthorse.defenses.sanitization.finetuning import Finetuning
from gifthorse.defenses.sanitization.inverted_data_distillation import InvertedDataDistillation, imitation
from gifthorse.inversion.inverted_images import ImageInversion, distance, normalisations
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training.generators import total_variation
from gifthorse.training.loop import Batch
from gifthorse.training.precision import fast_arithmetic
from worlds import live_pixel_view, with_delivered_set

SHAPE = (3, 12, 17)
Steps = list[tuple[Tensor, Tensor, Tensor, list[Tensor]]]
SHORT = {"images": 12, "inversion_steps": 2, "inversion_batch_size": 5}


def inversion(**settings: Any) -> InvertedImages:
    return InvertedImages(**{**SHORT, **settings})


def model_of(shape: tuple[int, int, int] = SHAPE, classes: int = 3) -> Classifier:
    """A network whose layers normalise by statistics of noise, none of them 0 or 1."""
    model = SmallCnn(width=2, embedding=8).build(shape, classes, 0).train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(16, *shape, generator=torch.Generator().manual_seed(1)))
    return model.eval()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """What the loss of each step was asked of: normalised pixels, logits, classes and the layers' distances."""
    steps: Steps = []
    true = ImageInversion.loss

    def loss(self: ImageInversion, seen: Tensor, logits: Tensor, wanted: Tensor, distances: list[Tensor]) -> Tensor:
        steps.append((seen.detach(), logits.detach(), wanted, [each.detach() for each in distances]))
        return true(self, seen, logits, wanted, distances)

    monkeypatch.setattr(ImageInversion, "loss", loss)
    return steps


@pytest.mark.parametrize("shape", [(7, 4), (7, 4, 5, 6)])
def test_a_layers_distance_is_nothing_where_statistics_agree_and_grows_by_what_they_are_off(
    shape: tuple[int, ...],
) -> None:
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rows = maps.movedim(1, -1).reshape(-1, 4)
    mean, variance = rows.mean(0), rows.var(0, correction=0)
    assert distance(maps, mean, variance) < 1e-5
    assert distance(maps + 3, mean, variance) == pytest.approx(3 * 4**0.5, rel=1e-4)
    assert distance(maps, mean, variance + torch.tensor([3.0, 0, 4, 0])) == pytest.approx(5, rel=1e-4)
    doubled = 2 * (maps - mean.view(1, -1, *[1] * (maps.ndim - 2)))
    assert distance(doubled, mean * 0, variance) == pytest.approx(float((3 * variance).norm()), rel=1e-4)


def test_the_loss_is_cross_entropy_the_prior_and_the_statistics() -> None:
    settings = inversion(statistics=0.7, smoothness=0.3, l2=0.2)
    seen, logits, wanted = torch.randn(4, *SHAPE), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    found = settings.loss(seen, logits, wanted, [torch.tensor(2.0), torch.tensor(5.0)])
    expected = cross_entropy(logits, wanted) + 0.3 * total_variation(seen) + 0.2 * seen.norm() + 0.7 * 7
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_what_each_layer_is_given_is_compared_with_its_own_statistics_the_first_ones_with_a_weight(
    asked: Steps,
) -> None:
    model = model_of()
    inversion(first_statistics=3.0, images=6, inversion_batch_size=6).invert(model, SHAPE, 0)
    given: list[Tensor] = []
    layers = normalisations(model)
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].detach()))
    for seen, logits, _, distances in asked:
        given.clear()
        pixels = seen * model.normalise.std + model.normalise.mean
        with fast_arithmetic(pixels.device):
            torch.testing.assert_close(model(pixels).detach(), logits)
        by_hand = [
            distance(maps, layer.running_mean, layer.running_var)  # type: ignore[arg-type]
            for maps, layer in zip(given, layers, strict=True)
        ]
        by_hand[0] = 3 * by_hand[0]
        torch.testing.assert_close(distances, by_hand)
        assert min(by_hand) > 0.01
    assert len(asked) == 2
    assert len(layers) == 3


def test_images_are_real_ones_and_as_many_of_each_class(
    asked: Steps,
) -> None:
    model = model_of()
    images = inversion(inversion_lr=0.9).invert(model, SHAPE, 0)
    assert images.pixels.shape == (12, *SHAPE)
    assert images.labels.tolist() == [0, 1, 2] * 4
    assert len(asked) == 2 * 3
    assert torch.cat([wanted for _, _, wanted, _ in asked[::2]]).tolist() == images.labels.tolist()
    for seen, *_ in asked:
        pixels = seen * model.normalise.std + model.normalise.mean
        assert -1e-6 <= float(pixels.min()) <= float(pixels.max()) <= 1 + 1e-6


def test_the_last_step_is_what_is_kept(asked: Steps) -> None:
    """Three steps go on from where two end."""
    model = model_of()
    two = inversion(images=4, jitter=0).invert(model, SHAPE, 0)
    inversion(images=4, jitter=0, inversion_steps=3).invert(model, SHAPE, 0)
    third = asked[-1][0] * model.normalise.std + model.normalise.mean
    assert (third - two.floats()).abs().max() < 0.6 / 255


def test_the_same_seed_makes_the_same_images_and_another_others() -> None:
    model = model_of()
    first, again, other = (inversion(mirror=True).invert(model, SHAPE, seed).pixels for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first != other).float().mean() > 0.5


def test_images_are_rolled_by_so_much_at_most_and_mirrored_only_where_that_is_asked_for() -> None:
    pixels, moves = torch.rand(2, *SHAPE), torch.Generator().manual_seed(0)
    for mirror in (False, True):
        rolls = {
            (down, right, mirrored): rolled.flip(3) if mirrored else rolled
            for down in range(-2, 3)
            for right in range(-2, 3)
            for mirrored in ((False, True) if mirror else (False,))
            for rolled in [pixels.roll((down, right), (2, 3))]
        }
        drawn = [inversion(mirror=mirror)._moved(pixels, moves) for _ in range(400)]
        met = [next(key for key, rolled in rolls.items() if torch.equal(rolled, each)) for each in drawn]
        assert set(met) == set(rolls)
    assert torch.equal(inversion(jitter=0)._moved(pixels, moves), pixels)


@pytest.mark.parametrize("statistics", [0.0, 10.0])
def test_a_real_model_classifies_its_images_as_what_they_were_made_for(
    statistics: float, benign: Classifier, task: Task, asked: Steps
) -> None:
    """Its statistics make them about as dark as the digits, which the model alone does not show them."""
    settings = inversion(images=60, inversion_steps=80, inversion_batch_size=60, statistics=statistics, jitter=1)
    images = settings.invert(benign, task.train.shape, 0)
    assert (predict(benign, images).argmax(1) == images.labels).float().mean() > 0.9
    apart = sum(float(each) for each in asked[-1][3]) / sum(float(each) for each in asked[0][3])
    darkness = float(images.floats().mean() - task.train.floats().mean())
    if statistics:
        assert apart < 0.3
        assert abs(darkness) < 0.05
    else:
        assert apart > 0.6
        assert abs(darkness) > 0.1


def test_the_model_is_left_as_it_was() -> None:
    model = model_of()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inversion().invert(model, SHAPE, 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in model.modules())
    assert not model.training
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_no_weight_has_a_gradient_while_only_pixels_are_sought(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = model_of(), []

    def loss(self: ImageInversion, pixels: Tensor, logits: Tensor, *_: Any) -> Tensor:
        seen.append(len([weight for weight in watched[-1].parameters() if weight.requires_grad]))
        return logits.square().mean()

    watched: list[Classifier] = []
    clone = Classifier.clone
    monkeypatch.setattr(Classifier, "clone", lambda self: watched.append(clone(self)) or watched[-1])  # type: ignore[func-returns-value]
    monkeypatch.setattr(ImageInversion, "loss", loss)
    inversion(images=4).invert(model, SHAPE, 0)
    assert seen == [0, 0]


def test_a_network_without_batch_normalisation_has_images_of_its_classes_all_the_same(
    asked: Steps,
) -> None:
    model = live_pixel_view(target=2, row=7, column=5).model
    assert normalisations(model) == []
    settings = InvertedDataDistillation(
        images=12, inversion_steps=40, jitter=0, epochs=1, batch_size=6, schedule="constant", lr=1e-3
    )
    outcome = settings.defend(DataFreeView(model, shape=(1, 8, 8)), 0)
    assert all(distances == [] for *_, distances in asked)
    logits, wanted = asked[-1][1:3]
    assert torch.equal(logits.argmax(1), wanted)
    assert outcome.model(torch.rand(4, 1, 8, 8)).isfinite().all()


def test_a_layer_that_keeps_no_statistics_is_not_asked_for_them() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.BatchNorm2d(2), nn.BatchNorm1d(2))
    assert normalisations(model) == [model[1], model[2]]


def test_the_students_loss_is_the_distance_to_the_teachers_logits_whatever_the_labels() -> None:
    teacher, student, pixels = model_of(), model_of(), torch.rand(6, *SHAPE)
    with torch.no_grad():
        student.head.weight.add_(0.3)
    loss = imitation(teacher)
    labels = torch.zeros(6, dtype=torch.int64)
    found = loss(student, Batch(pixels, labels))
    torch.testing.assert_close(found, l1_loss(student(pixels), teacher(pixels)))
    assert torch.equal(found, loss(student, Batch(pixels, labels + 1)))
    found.backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    assert student.head.weight.grad is not None


def distillation(**settings: Any) -> InvertedDataDistillation:
    schedule = {"schedule": "constant", "epochs": 1, "batch_size": 6}
    return InvertedDataDistillation(**{**SHORT, **schedule, **settings})


def test_the_student_begins_as_the_teacher_or_as_a_new_model_of_its_kind(task: Task, trojan: Trojan) -> None:
    view = view_of(distillation(), trojan, task)
    assert isinstance(view, DataFreeView)
    copied, fresh = (distillation(start=start).student(view, 3) for start in ("teacher", "fresh"))
    assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), view.model.parameters(), strict=True))
    assert copied.head.weight.data_ptr() != view.model.head.weight.data_ptr()
    new = task.architecture.build(view.shape, view.classes, 3)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), new.parameters(), strict=True))
    nobody_knows = replace(view, trainer=None)
    assert distillation().skip(nobody_knows) is None
    assert distillation(start="fresh").skip(view) is None
    assert distillation(start="fresh").skip(nobody_knows) == (
        "a fresh student needs the model's architecture, and nobody knows how this model was made"
    )


def test_the_student_is_trained_on_the_images_and_a_few_of_them_are_shown() -> None:
    view, settings = DataFreeView(model_of(), shape=SHAPE), distillation(lr=0.05)
    outcome = settings.defend(view, 4)
    images = settings.invert(view.model, SHAPE, derive(4, settings.name, "images"))
    assert outcome.samples is not None
    assert torch.equal(outcome.samples, images.floats()[:8])
    assert set(outcome.findings) == {"agreement_on_samples"}
    assert isinstance(outcome.model, Classifier)
    moved = zip(outcome.model.parameters(), view.model.parameters(), strict=True)
    assert all(not torch.equal(a, b) for a, b in moved if a.ndim > 1)


def test_fewer_images_than_classes_are_refused_with_a_sentence() -> None:
    view = DataFreeView(model_of(classes=5), shape=SHAPE)
    for found in (distillation(images=4), inversion(images=4)):
        assert found.skip(view) == "makes 4 images, which are fewer than the model's 5 classes"
        assert found.changed(images=5).skip(view) is None


GIVEN: list[tuple[DataFreeView, int]] = []


class Recorder(Defense[Any]):
    """Keeps what it is given, and refuses it where that is asked for."""

    name = "recorder"
    family = "sanitization"
    view: ClassVar[type[DataFreeView]] = ModelView
    refuses: bool = False

    def skip(self, view: DataFreeView) -> str | None:
        return "needs another kind of images" if self.refuses else None

    def defend(self, view: DataFreeView, seed: int) -> CleanModel:
        GIVEN.append((view, seed))
        return CleanModel(view.model)


class Modest(Recorder):
    """Asks for the model alone."""

    name = "modest"
    view = DataFreeView


def test_the_inner_defense_is_handed_the_inverted_images_and_no_more(task: Task, trojan: Trojan) -> None:
    settings = inversion(defense=Recorder(), images=20, inversion_batch_size=20)
    view = view_of(settings, trojan, task)
    assert type(view) is DataFreeView
    GIVEN.clear()
    outcome = settings.defend(view, 7)
    ((given, seed),) = GIVEN
    assert isinstance(outcome, CleanModel)
    assert outcome.model is given.model
    assert type(given) is ModelView
    made = settings.invert(view.model, view.shape, derive(7, "inverted_images", "images"))
    assert torch.equal(given.clean.pixels, made.pixels)
    assert torch.equal(given.clean.labels, made.labels)
    assert (given.clean.classes, given.trainer, seed) == (10, view.trainer, derive(7, "inverted_images"))
    assert leaks(given, with_delivered_set(trojan, task), task) == []
    assert all(torch.equal(a, b) for a, b in zip(given.model.parameters(), view.model.parameters(), strict=True))
    inversion(defense=Modest(), images=20).defend(view, 7)
    assert type(GIVEN[-1][0]) is DataFreeView


def test_the_inner_defenses_own_answer_and_family_count(task: Task, trojan: Trojan) -> None:
    tuning = Finetuning(epochs=1, samples=0, schedule="constant", batch_size=10)
    settings = inversion(defense=tuning, images=20, inversion_batch_size=20)
    view = view_of(settings, trojan, task)
    assert isinstance(view, DataFreeView)
    made = settings.invert(view.model, view.shape, derive(0, "inverted_images", "images"))
    alone = tuning.defend(ModelView(view.model, made), derive(0, "inverted_images"))
    outcome = settings.defend(view, 0)
    assert isinstance(outcome, CleanModel)
    shown = task.test.take(slice(20))
    assert torch.equal(predict(outcome.model, shown), predict(alone.model, shown))
    for inner, family in (("finetuning", "sanitization"), ("strip", "filtering"), ("neural_cleanse", "inspection")):
        assert DEFENSES.build(f"inverted_images[defense={inner}]").judged_as() == family


def test_an_inner_defense_that_refuses_the_images_says_why() -> None:
    view = DataFreeView(model_of(), shape=SHAPE)
    with pytest.raises(NotApplicableError, match="recorder: needs another kind of images"):
        inversion(defense=Recorder(refuses=True)).defend(view, 0)
    with pytest.raises(NotApplicableError, match="finetuning: needs 4 clean images to tune on; there are 3"):
        inversion(images=3).defend(view, 0)


@pytest.mark.parametrize(
    ("inner", "sentence"),
    [
        ("finetuning[clean_share=0.1]", "finetuning gets all images that are made: set images here"),
        ("gdm[target_known=true]", "gdm needs a KnownClassView: inverted images do not make one"),
        ("activation_clustering", "activation_clustering needs a SuspectDataView: inverted images do not make one"),
        ("neural_cleanse[reference=2]", "neural_cleanse prepares from clean images before there is a model to invert"),
        ("pipeline[defenses=[auto_encoder,strip]]", "pipeline prepares from clean images before there is a model"),
    ],
)
def test_an_inner_defense_that_could_never_work_is_refused_with_a_sentence(inner: str, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        DEFENSES.build(f"inverted_images[defense={inner}]")


def test_images_on_a_grid_of_levels_are_what_an_image_file_could_hold() -> None:
    images = inversion().invert(model_of(), SHAPE, 0)
    assert isinstance(images, Images)
    assert images.pixels.dtype == torch.uint8
    assert images.pixels.float().std() > 20
