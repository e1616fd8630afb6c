"""DHBE term by term: what its networks make, what each step computes and whose weights it moves."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.outcomes import CleanModel
from gifthorse.core.views import DataFreeView
from gifthorse.defenses import DEFENSES
from gifthorse.defenses.sanitization import dhbe
from gifthorse.defenses.sanitization.dhbe import Dhbe, Distillation
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.training import precision
from gifthorse.training.erased import erased
from gifthorse.training.generators import PatchGenerator, SampleGenerator, add_patches, total_variation

SHAPE = (3, 12, 17)


def distillation(shape: tuple[int, int, int] = SHAPE, **settings: Any) -> Distillation:
    model = SmallCnn(width=4).build(shape, 3, 0).eval()
    chosen = Dhbe(**{"batch_size": 8, "noise": 8, "width": 4, "patch_size": 3, "iterations": 1, **settings})
    return Distillation(chosen, DataFreeView(model, shape=shape), 0)


def state(module: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in module.state_dict().values()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("shape", [(1, 16, 16), SHAPE, (3, 40, 33), (1, 5, 5)])
def test_samples_have_zero_mean_and_unit_variance_where_the_classifier_looks(shape: tuple[int, int, int]) -> None:
    """Appendix B.2: they end in batch normalisation, without scale or shift, and are fed to the network as they are."""
    found = distillation(shape)
    pixels = found.pixels(found.samples(found.draw()))
    assert pixels.shape == (8, *shape)
    seen = found.teacher.normalise(pixels)
    assert seen.mean((0, 2, 3)).abs().max() < 1e-4
    assert (seen.var((0, 2, 3), correction=0) - 1).abs().max() < 1e-2
    layers = list(SampleGenerator(shape, 8, 4))
    last = layers[-1]
    assert isinstance(last, nn.BatchNorm2d)
    assert (last.affine, last.track_running_stats) == (False, False)


def test_samples_have_the_mean_and_deviation_that_images_are_said_to_have() -> None:
    """In the paper the classifier's own, which are the training images'."""
    found = distillation(mean=(0.3, 0.4, 0.5), deviation=(0.1, 0.2, 0.3))
    pixels = found.pixels(found.samples(found.draw()))
    assert torch.allclose(pixels.mean((0, 2, 3)), torch.tensor([0.3, 0.4, 0.5]), atol=1e-4)
    assert torch.allclose(pixels.std((0, 2, 3)), torch.tensor([0.1, 0.2, 0.3]), atol=1e-3)
    view = DataFreeView(SmallCnn(width=2).build((1, 12, 12), 3, 0), shape=(1, 12, 12))
    assert Dhbe(mean=(0.3,), deviation=(0.1,)).skip(view) is None
    for other in (Dhbe(mean=(0.3, 0.4, 0.5)), Dhbe(deviation=(0.1, 0.2))):
        assert other.skip(view) == "its mean and deviation are not one number for each of the images' 1 channels"


@pytest.mark.parametrize("size", [1, 3, 5, 9, 10, 19])
def test_patches_are_of_their_size_and_bounded(size: int) -> None:
    patches = PatchGenerator(3, size, 8, 4)(torch.randn(6, 8))
    assert patches.shape == (6, 3, size, size)
    assert 0 < patches.abs().max() <= 1


@pytest.mark.parametrize("placement", ["batch", "image"])
@pytest.mark.parametrize("size", [3, 12])
def test_a_patch_lies_inside_the_image_anywhere_and_leaves_the_rest_alone(placement: str, size: int) -> None:
    found = distillation(patch_size=size, placement=placement, patch_scale=0.5, batch_size=64)
    tops, lefts = set(), set()
    for _ in range(12):
        pixels = torch.rand(64, *SHAPE)
        change = (found.stamped(pixels) - pixels).detach().abs().sum(1)
        assert change.max() <= 3 * 0.5 + 1e-5
        touched = change > 1e-6
        rows, columns = touched.any(2), touched.any(1)
        assert int(rows.sum(1).max()) <= size
        assert int(columns.sum(1).max()) <= size
        assert int(touched.sum((1, 2)).min()) >= size * size - 2
        tops |= set(rows.int().argmax(1).tolist())
        lefts |= set(columns.int().argmax(1).tolist())
        if placement == "batch":
            assert touched.any(0).sum() == size * size
    if placement == "image":
        assert tops >= set(range(12 - size + 1))
        assert lefts >= set(range(17 - size + 1))


def test_a_patch_is_added_where_it_is_said_to_be() -> None:
    pixels, patches = torch.zeros(2, 1, 4, 5), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[5.0, 6.0], [7.0, 8.0]]]])
    found = add_patches(pixels, patches, torch.tensor([1, 2]).view(2, 1, 1), torch.tensor([3]).view(1, 1, 1))
    assert torch.equal(found[0, 0, 1:3, 3:], patches[0, 0])
    assert torch.equal(found[1, 0, 2:, 3:], patches[1, 0])
    assert found.sum() == 36
    assert pixels.sum() == 0


def test_total_variation_is_of_the_four_directions() -> None:
    image = torch.tensor([[[[0.0, 3.0], [4.0, 0.0]]]])
    assert total_variation(image) == pytest.approx((9 + 16) ** 0.5 + (16 + 9) ** 0.5 + 0 + 1)


def test_the_student_starts_as_the_teacher() -> None:
    found = distillation()
    assert same(state(found.student), state(found.student.clone()))
    view = DataFreeView(SmallCnn(width=4).build(SHAPE, 3, 0).eval(), shape=SHAPE)
    assert same(state(found.student), state(view.model))
    pixels = torch.rand(4, *SHAPE)
    assert torch.allclose(found.student.eval()(pixels), found.teacher(pixels), atol=1e-4)


def recorded(found: Distillation) -> dict[str, list[Tensor]]:
    """What teacher and student are asked and answer, call by call."""
    calls: dict[str, list[Tensor]] = {"teacher": [], "student": [], "asked": []}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name].append(output)
            calls["asked"].append(inputs[0])

        return hook

    found.teacher.register_forward_hook(note("teacher"))
    found.student.register_forward_hook(note("student"))
    return calls


def test_the_students_loss_is_its_distance_and_its_reaction() -> None:
    """Eq. 8, from what the networks answered; nothing reaches the generators, and the plain logits are no variable."""
    found = distillation(regularisation=0.3)
    calls = recorded(found)
    loss = found.student_loss()
    (wanted,), (plain, stamped) = calls["teacher"], calls["student"]
    expected = l1_loss(plain, wanted) + 0.3 * l1_loss(stamped, plain)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    weights = [each for each in found.student.parameters() if each.requires_grad]
    by_hand = torch.autograd.grad(
        l1_loss(plain, wanted) + 0.3 * l1_loss(stamped, plain.detach()), weights, retain_graph=True
    )
    for ours, wanted_slope in zip(torch.autograd.grad(loss, weights), by_hand, strict=True):
        assert torch.allclose(ours, wanted_slope, atol=1e-6)
    assert not any(each.requires_grad for each in calls["asked"])
    assert not wanted.requires_grad


def test_without_a_weight_stamped_samples_still_pass_through_the_students_statistics() -> None:
    """Section 5.4.1: λ = 0 is not pure adversarial distillation."""
    found, pure = distillation(regularisation=0.0), distillation(abr=False)
    calls, of_pure = recorded(found), recorded(pure)
    loss, alone = found.student_loss(), pure.student_loss()
    assert (len(calls["student"]), len(of_pure["student"])) == (2, 1)
    for found_loss, asked in ((loss, calls), (alone, of_pure)):
        assert torch.allclose(found_loss, l1_loss(asked["student"][0], asked["teacher"][0]))
    assert not calls["student"][1].requires_grad


def test_pure_adversarial_distillation_never_touches_the_trigger_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a patch was made")

    monkeypatch.setattr(PatchGenerator, "forward", refuse)
    settings = DEFENSES.build("pure_ad[iterations=2,batch_size=8,noise=8,width=4]")
    view = DataFreeView(SmallCnn(width=4).build(SHAPE, 3, 0), shape=SHAPE)
    settings.defend(view, 0)
    found = distillation(abr=False)
    before = state(found.patches)
    found.iterate()
    assert same(before, state(found.patches))


def test_each_step_moves_what_it_is_for_and_leaves_gradients_nowhere_else() -> None:
    found = distillation(smoothness=0.0)
    teacher, student = state(found.teacher), [each.detach().clone() for each in found.student.parameters()]
    patches, samples = state(found.patches), state(found.samples)
    found.step(found.of_student, found.student_loss())
    assert same(teacher, state(found.teacher))
    assert same(patches, state(found.patches))
    assert same(samples, state(found.samples))
    moved = [each.detach().clone() for each in found.student.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(student, moved, strict=True))

    found.student.zero_grad()
    for each in found.weights:
        each.requires_grad_(False)
    found.step_of_samples()
    assert not any(torch.equal(a, b) for a, b in zip(samples, state(found.samples), strict=True) if a.ndim > 1)
    assert same(moved, list(found.student.parameters()))
    assert [
        each.grad for each in [*found.student.parameters(), *found.teacher.parameters()] if each.grad is not None
    ] == []


def test_the_student_goes_by_the_batch_throughout_and_has_gradients_in_its_own_steps_alone() -> None:
    found = distillation(student_steps=2)
    seen: list[tuple[bool, bool]] = []
    before = [tensor.clone() for name, tensor in found.student.state_dict().items() if "running_mean" in name]
    found.student.register_forward_hook(
        lambda *_: seen.append((found.student.training, found.weights[0].requires_grad))
    )
    found.iterate()
    assert seen == [(True, True)] * 4 + [(True, False)] * 2
    assert all(each.requires_grad for each in found.weights)
    after = [tensor for name, tensor in found.student.state_dict().items() if "running_mean" in name]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("step", ["samples", "patches"])
def test_generators_move_to_where_the_student_differs_and_reacts_more(step: str) -> None:
    """Both maximise: after some steps of one, with everything else as it was, its term is larger."""
    found = distillation(generator_lr=0.01, batch_size=32, smoothness=0.0)
    with torch.no_grad():
        for weight in found.weights:
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)), alpha=0.05)
    found.student.eval()

    def term() -> Tensor:
        pixels = found.pixels(found.samples(found.draw())).detach()
        if step == "samples":
            return l1_loss(found.student(pixels), found.teacher(pixels))
        return l1_loss(found.student(found.stamped(pixels)), found.student(pixels))

    before = float(torch.stack([term().detach() for _ in range(8)]).mean())
    for _ in range(20):
        if step == "samples":
            found.step_of_samples()
        else:
            pixels = found.pixels(found.samples(found.draw())).detach()
            found.step_of_patches(pixels, found.student(pixels).detach())
    after = float(torch.stack([term().detach() for _ in range(8)]).mean())
    assert after > 1.1 * before


def test_rates_fall_to_a_tenth_twice_for_all_three() -> None:
    found = distillation(iterations=10, student_steps=1, lr=0.2)
    rates = []
    for _ in range(10):
        rates.append([each.param_groups[0]["lr"] for each in (found.of_student, found.of_samples, found.of_patches)])
        found.iterate()
    for place, start in enumerate((0.2, 0.002, 0.002)):
        assert [each[place] for each in rates] == pytest.approx([start] * 6 + [start / 10] * 2 + [start / 100] * 2)


def test_the_generators_rate_follows_the_students_unless_it_is_said() -> None:
    assert distillation(lr=0.05).of_samples.param_groups[0]["lr"] == pytest.approx(5e-4)
    assert distillation(lr=0.05, generator_lr=0.01).of_patches.param_groups[0]["lr"] == 0.01


def plain_model(classes: int = 3, mean: float = 0.0, std: float = 1.0) -> Classifier:
    """A network without batch normalisation."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
    return Classifier.wrap(network, (mean,), (std,), example_shape=(1, 12, 12)).eval()


def test_a_network_without_batch_normalisation_is_distilled_and_nothing_but_patches_moves_it_at_first() -> None:
    settings = Dhbe(iterations=3, batch_size=8, noise=8, width=4, patch_size=3, mean=(0.5,), deviation=(0.25,))
    view = DataFreeView(plain_model(), shape=(1, 12, 12))
    assert settings.skip(view) is None
    assert settings.defend(view, 0).model(torch.rand(4, 1, 12, 12)).isfinite().all()
    apart = {
        abr: float(Distillation(settings.changed(abr=abr, regularisation=1.0), view, 0).student_loss().detach())
        for abr in (False, True)
    }
    assert apart[False] < 1e-6
    assert apart[True] > 1e-4


def test_a_network_that_takes_pixels_as_they_are_does_not_tell_what_images_are_like() -> None:
    """Samples would have mean 0 and deviation 1 where pixels lie in [0,1]."""
    view = DataFreeView(plain_model(), shape=(1, 12, 12))
    sentence = "the network takes pixels as they are: mean and deviation have to say what images are like"
    for incomplete in (Dhbe(), Dhbe(mean=(0.5,)), Dhbe(deviation=(0.25,)), Dhbe(abr=False)):
        assert incomplete.skip(view) == sentence
    assert Dhbe(mean=(0.5,), deviation=(0.25,)).skip(view) is None
    assert Dhbe(mean=(0.0,), deviation=(1.0,)).skip(view) is None, "whoever says so means it"
    for said in ((0.0, 0.5), (0.5, 1.0)):
        assert Dhbe().skip(DataFreeView(plain_model(3, *said), shape=(1, 12, 12))) is None


def test_a_model_of_one_class_is_refused_with_a_sentence() -> None:
    found = [Dhbe().skip(DataFreeView(plain_model(count, 0.5, 0.5), shape=(1, 12, 12))) for count in (1, 2)]
    assert found == ["the model has one class: there is no decision to distil", None]


def test_the_student_is_compared_with_the_teacher_on_fresh_samples_which_change_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Dhbe(iterations=2, batch_size=8, noise=8, width=4, patch_size=3)
    view = DataFreeView(SmallCnn(width=4).build(SHAPE, 3, 0), shape=SHAPE)
    compared = list[Tensor]()

    def noted(before: Classifier, after: Classifier, *, samples: Tensor) -> CleanModel:
        assert same(state(before), state(view.model))
        assert not after.training
        compared.append(samples)
        return erased(before, after, samples=samples)

    monkeypatch.setattr(dhbe, "erased", noted)
    found = settings.defend(view, 0)
    assert found.findings.keys() == {"agreement_on_samples"}
    agree = predict(view.model, compared[0]).argmax(1) == predict(found.model, compared[0]).argmax(1)
    assert found.findings["agreement_on_samples"] == pytest.approx(float(agree.float().mean()))
    assert compared[0].shape == (512, *SHAPE)
    means = compared[0].unflatten(0, (64, 8)).mean((1, 3, 4))
    assert torch.allclose(means, torch.full_like(means, 0.5), atol=1e-3), "each batch is normalised by itself"
    assert len(compared[0].flatten(1).unique(dim=0)) == 512
    assert found.samples is not None
    assert torch.equal(found.samples, compared[0][:8].clamp(0, 1))

    monkeypatch.setattr(dhbe, "COMPARED", 4)
    again = settings.defend(view, 0).model
    assert len(compared[1]) == 4
    assert same(state(found.model), state(again))


def test_where_the_networks_run_in_lower_precision_what_they_make_and_the_losses_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU. Pixels lie as convolutions want them."""
    monkeypatch.setattr(dhbe, "fast_on_gpu", lambda device: torch.autocast(device.type, torch.bfloat16))
    for placement in ("batch", "image"):
        found = distillation(placement=placement)
        calls = recorded(found)
        found.iterate()
        assert {each.dtype for name in ("teacher", "student") for each in calls[name]} == {torch.bfloat16}
        assert {each.dtype for each in calls["asked"]} == {torch.float32}
        assert all(each.is_contiguous(memory_format=torch.channels_last) for each in calls["asked"])
        assert {each.dtype for each in found.weights} == {torch.float32}
        assert found.student_loss().dtype == torch.float32
        assert all(each.isfinite().all() for each in found.weights)


def test_on_a_cpu_all_is_in_float32_even_where_less_would_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_native_bfloat16", lambda device: True)
    found = distillation()
    calls = recorded(found)
    found.iterate()
    assert {each.dtype for name in ("teacher", "student") for each in calls[name]} == {torch.float32}


def test_generators_may_lie_as_convolutions_want_them() -> None:
    """As on a GPU: they make the same, and what they make lies so as well."""
    found = distillation()
    noise = found.draw()
    for maker in (found.samples, found.patches):
        before = maker(noise)
        maker.to(memory_format=torch.channels_last)
        after = maker(noise)
        assert torch.allclose(before, after, atol=1e-4)
        assert after.is_contiguous(memory_format=torch.channels_last)


def test_a_patch_that_does_not_fit_is_refused_with_a_sentence() -> None:
    view = DataFreeView(SmallCnn(width=2).build(SHAPE, 3, 0), shape=SHAPE)
    assert Dhbe(patch_size=12).skip(view) is None
    assert Dhbe(patch_size=13).skip(view) == "its patches of 13×13 do not fit into images of 12×17"
    assert Dhbe(patch_size=13, abr=False).skip(view) is None
