"""Attacks that train against defenses: what each defense offers, what that does to training, what is refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gifthorse.attacks import ATTACKS
from gifthorse.attacks.data.badnets import BadNets
from gifthorse.attacks.training.imc import Imc
from gifthorse.bench.cell import resolve
from gifthorse.contracts.worlds import cut_short
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.defense import Defense
from gifthorse.core.errors import NotApplicableError, RequestError
from gifthorse.core.evasion import OFFERS, Attacker, Evasion, Penalty, Seen, check_reform
from gifthorse.core.goal import AllToOne, SourceSpecific
from gifthorse.core.images import Images
from gifthorse.core.pgd import Pgd
from gifthorse.core.seeds import generator
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor
from gifthorse.core.views import Materials
from gifthorse.defenses import DEFENSES
from gifthorse.inversion.mimicry import mimicry
from gifthorse.inversion.smallest_trigger import smallest_trigger
from gifthorse.inversion.stimulation import stimulation_cost
from gifthorse.inversion.suspects import separability
from gifthorse.planting.adaptation import Adaptation
from gifthorse.planting.adaptive import AdaptiveAttack, Surrogates, pixels_changed
from gifthorse.planting.mixing import BatchMixing, LossMixing
from gifthorse.planting.schedule import Schedule
from gifthorse.training.loop import Batch, classification_loss, fit
from gifthorse.training.scratch import FromScratch, train
from gifthorse.triggers.patch import Patch, square
from worlds import noise_task

SHAPE = (3, 12, 12)
OFFERING = {name: cls.offers for name, cls in DEFENSES.items() if cls.offers is not None}
REFORMS = {name for name, offer in OFFERING.items() if offer == "reform"}
PENALTIES = {name for name, offer in OFFERING.items() if offer in ("penalty", "discriminator")}


def test_who_offers_what() -> None:
    assert {name: offer for name, offer in OFFERING.items() if offer != "reform"} == {
        "strip": "decoys",
        "adversarial_retraining": "adversary",
        "activation_clustering": "penalty",
        "activation_clustering_screen": "penalty",
        "spectral_signatures": "penalty",
        "spectral_signatures_screen": "penalty",
        "abs": "penalty",
        "aegis": "penalty",
        "neural_cleanse": "penalty",
        "mntd": "discriminator",
    }
    transformations = {"flip", "shrinkpad", "resize", "crop", "gaussian_noise", "transformation"}
    transformations |= {"color_hue", "color_contrast", "color_brightness", "color_saturation"}
    others = {"manifold_projection", "auto_encoder", "down_up_sampling", "randomized_smoothing"}
    assert others | transformations == REFORMS
    assert set(OFFERING.values()) == OFFERS.keys()
    assert DEFENSES["strip"].describe()["offers"].startswith("decoys: images with the trigger as faint as")
    assert DEFENSES["finetuning"].describe()["offers"] == ""


def attacker_for(defense: Defense[Any]) -> Attacker:
    task = noise_task(SHAPE)
    prepared = {}
    if defense.preparation() is not None:
        prepared = defense.prepare(Materials(task.train, FromScratch(task.architecture, task.recipe)), 3)
    # No recovered trigger is as large as this one, so that whoever looks for small ones has something to say.
    return Attacker(task.train, train(task, 0), (0,), 1000.0, prepared)


def evasion_of(name: str, seed: int = 0) -> tuple[Evasion, Attacker]:
    found = resolve(dataset="digits", defense=name, profile="smoke").defense
    assert found is not None
    defense = cut_short(found)
    attacker = attacker_for(defense)
    before = torch.get_rng_state()
    evasion = defense.evasion(attacker, seed)
    assert torch.equal(torch.get_rng_state(), before), "it draws from torch's global random state"
    return evasion, attacker


@pytest.fixture(autouse=True)
def _any_surrogate_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be learnt of noise: floors have tests of their own."""
    monkeypatch.setattr("gifthorse.core.evasion.FLOOR", 0.0)
    monkeypatch.setattr("gifthorse.defenses.inspection.mntd.LEAST_AUROC", 0.0)


@pytest.mark.parametrize("name", sorted(REFORMS))
def test_a_reform_can_be_differentiated_and_draws_for_itself(name: str) -> None:
    evasion, attacker = evasion_of(name)
    assert evasion.reform is not None
    assert (evasion.adversary, evasion.decoy, evasion.penalty) == (None, None, None)
    pixels = attacker.images.floats()[:6].requires_grad_()
    state = torch.get_rng_state()
    reformed = evasion.reform(pixels)
    assert torch.equal(torch.get_rng_state(), state)
    assert reformed.shape == pixels.shape
    (slopes,) = torch.autograd.grad(reformed.square().sum(), pixels)
    assert slopes.flatten(1).abs().sum(1).min() > 0
    again, _ = evasion_of(name)
    assert again.reform is not None
    torch.testing.assert_close(again.reform(pixels), reformed)


def seen_by(model: Classifier, images: Images, kept: int = 24, seed: int = 0) -> Seen:
    """A mini-batch with a white patch on its last images, all of which should get class 0."""
    pixels, labels = images.floats()[:32].clone(), images.labels[:32].clone()
    pixels[kept:, :, :3, :3] = 1
    labels[kept:] = 0
    return Seen(pixels, labels, kept, *model.features_and_logits(pixels))


@pytest.mark.parametrize("name", sorted(PENALTIES))
def test_training_against_a_penalty_lowers_it_and_leaves_the_model_in_its_mode(name: str) -> None:
    evasion, attacker = evasion_of(name)
    assert evasion.penalty is not None
    model = attacker.benign.clone().train()
    modes = [part.training for part in model.modules()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    first = float(evasion.penalty(model, seen_by(model, attacker.images)).detach())
    before = mean_of(evasion.penalty, model, attacker.images)
    for _ in range(12):
        value = evasion.penalty(model, seen_by(model, attacker.images))
        assert value.shape == ()
        assert bool(value.isfinite())
        optimizer.zero_grad()
        value.backward()
        assert sum(float(each.grad.abs().sum()) for each in model.parameters() if each.grad is not None) > 0
        optimizer.step()
    assert [part.training for part in model.modules()] == modes
    assert mean_of(evasion.penalty, model, attacker.images) < before
    again, _ = evasion_of(name)
    assert again.penalty is not None
    model = attacker.benign.clone().train()
    assert float(again.penalty(model, seen_by(model, attacker.images)).detach()) == pytest.approx(first, rel=1e-4)


def mean_of(penalty: Penalty, model: Classifier, images: Images) -> float:
    """Some penalties draw anew in every step."""
    return sum(float(penalty(model, seen_by(model, images)).detach()) for _ in range(10)) / 10


@pytest.mark.parametrize("name", sorted(PENALTIES))
def test_a_mini_batch_without_a_stamped_image_costs_nothing_that_is_no_number(name: str) -> None:
    evasion, attacker = evasion_of(name)
    assert evasion.penalty is not None
    model = attacker.benign.clone().train()
    assert bool(evasion.penalty(model, seen_by(model, attacker.images, kept=32)).isfinite())


@pytest.mark.parametrize("request_", ["mntd", "mntd[one_class=true]"])
def test_against_mntd_every_meta_classifier_counts_from_what_it_says_of_benign_models(request_: str) -> None:
    evasion, attacker = evasion_of(request_)
    assert evasion.penalty is not None
    model, fitted = attacker.benign.clone().train(), attacker.prepared
    assert len(fitted["queries"]) > 1
    expected = []
    with torch.no_grad():
        value = evasion.penalty(model, seen_by(model, attacker.images))
        for place, queries in enumerate(fitted["queries"]):
            answers = predict(model, queries)
            if fitted["probabilities"]:
                answers = answers.softmax(1)
            hidden = (answers.flatten() @ fitted["hidden_weight"][place] + fitted["hidden_bias"][place]).relu()
            score, benign = hidden @ fitted["weight"][place], fitted["training_benign"][place]
            beyond = score + fitted["bias"][place] - benign.mean() if "bias" in fitted else benign.mean() - score
            expected.append((1 + beyond.exp()).log())
    torch.testing.assert_close(value, torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(PENALTIES))
def test_a_penalty_leaves_the_statistics_of_the_model_in_training_alone(name: str) -> None:
    evasion, attacker = evasion_of(name)
    assert evasion.penalty is not None
    model = attacker.benign.clone().train()
    shown = seen_by(model, attacker.images)
    before = {name: each.clone() for name, each in model.named_buffers()}
    assert any("running" in name for name in before)
    evasion.penalty(model, shown)
    assert all(torch.equal(each, before[name]) for name, each in model.named_buffers())


def test_strip_is_evaded_by_the_mixtures_that_it_makes() -> None:
    stamped, others = torch.full((2, 1, 2, 2), 0.8), torch.full((2, 1, 2, 2), 0.4)
    others[1] = 0.2
    for name, expected in {
        "strip[input_weight=0.5,overlay_weight=0.5]": [0.6, 0.5],
        "strip[input_weight=0.25,overlay_weight=0.75]": [0.5, 0.35],
        "strip[input_weight=1.0,overlay_weight=1.0]": [1.0, 1.0],
    }.items():
        decoy = evasion_of(name)[0].decoy
        assert decoy is not None
        assert decoy(stamped, others)[:, 0, 0, 0].tolist() == pytest.approx(expected)


def test_adversarial_retraining_is_evaded_by_its_own_adversary() -> None:
    found = evasion_of("adversarial_retraining[radius=0.1,steps=3]")[0].adversary
    assert isinstance(found, Pgd)
    assert (found.radius, found.steps, found.targeted) == (0.1, 3, False)


# --- What an adaptation makes of a mini-batch ---


class Brightest(nn.Module):
    """A classifier whose logits are the mean brightness, times the class number."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.mean((1, 2, 3)).unsqueeze(1) * torch.arange(4.0)


def backdoor() -> Backdoor:
    return Backdoor(Patch(square((1, 8, 8), 2, "top_left"), torch.ones(1, 8, 8), 0.0), AllToOne(target=0))


def adapted(
    evasions: list[Evasion], share: float = 0.5, strategy: Callable[..., Any] = BatchMixing, rate: float = 0.25
) -> Callable[[Batch], Batch]:
    planted = backdoor()
    adaptation = Adaptation(evasions, Brightest(), planted, share, 1.0, generator(0, "x"))  # type: ignore[arg-type]
    return adaptation.mix(strategy(planted, rate, generator(0, "y")))


def batch(count: int = 24) -> Batch:
    return Batch(torch.rand(count, 1, 8, 8, generator=generator(0, "pixels")) * 0.5, torch.arange(count) % 3 + 1)


@pytest.mark.parametrize("strategy", [BatchMixing, LossMixing])
@pytest.mark.parametrize("share", [0.5, 1.0, 0.3])
def test_a_share_of_what_is_stamped_is_reformed_and_nothing_else(share: float, strategy: Callable[..., Any]) -> None:
    mix = adapted([Evasion(reform=lambda pixels: 0 * pixels + 0.77)], share, strategy)
    reformed = stamped = 0
    for _ in range(10):
        mixed = mix(batch())
        assert mixed.stamped is not None
        gray = (mixed.pixels == 0.77).flatten(1).all(1)
        assert not (gray & ~mixed.stamped).any()
        others = mixed.pixels[mixed.stamped & ~gray]
        assert (others[:, :, :2, :2] == 1).all()
        assert (mixed.labels[mixed.stamped] == 0).all()
        reformed, stamped = reformed + int(gray.sum()), stamped + int(mixed.stamped.sum())
    assert reformed == pytest.approx(share * stamped, abs=1)


def test_several_reforms_take_turns() -> None:
    mix = adapted([Evasion(reform=lambda p: 0 * p + 0.3), Evasion(reform=lambda p: 0 * p + 0.6)], 1.0)
    shown = []
    for _ in range(4):
        images = mix(batch()).pixels.flatten(1)
        shown.append({round(float(each[0]), 1) for each in images[(images == images[:, :1]).all(1)]})
    assert shown == [{0.3}, {0.6}, {0.3}, {0.6}]


def test_several_decoys_take_turns_and_none_is_made_of_another() -> None:
    mix = adapted([Evasion(decoy=lambda s, _, level=level: 0 * s + level) for level in (0.3, 0.6)])  # type: ignore[misc]
    shown = []
    for _ in range(4):
        images = mix(batch()).pixels.flatten(1)
        shown.append({round(float(each[0]), 1) for each in images[(images == images[:, :1]).all(1)]})
    assert shown == [{0.3}, {0.6}, {0.3}, {0.6}]


def test_as_many_clean_images_as_stamped_ones_become_decoys_and_keep_their_label() -> None:
    half = Evasion(decoy=lambda stamped, others: (stamped + others) / 2)
    plain, mixed = adapted([])(batch()), adapted([half])(batch())
    assert mixed.stamped is not None
    assert torch.equal(mixed.labels, plain.labels)
    count = int(mixed.stamped.sum())
    changed = (mixed.pixels != plain.pixels).flatten(1).any(1).nonzero().squeeze(1)
    kept = len(mixed.labels) - count
    assert changed.tolist() == list(range(kept - count, kept))
    stamped = plain.pixels[changed].clone()
    stamped[:, :, :2, :2] = 1
    # Mixed with other images, even where there is one decoy alone: with itself it would be no mixture.
    torch.testing.assert_close(mixed.pixels[changed], (stamped + plain.pixels[:count]) / 2)
    alone = adapted([half], rate=0.04)(batch())
    assert alone.stamped is not None
    assert int(alone.stamped.sum()) == 1
    assert int((alone.pixels != adapted([], rate=0.04)(batch()).pixels).flatten(1).any(1).sum()) == 1


@pytest.mark.parametrize(("strategy", "rate"), [(LossMixing, 0.1), (BatchMixing, 0.5)])
def test_half_of_the_clean_images_stay_clean_however_many_are_stamped(
    strategy: Callable[..., Any], rate: float
) -> None:
    decoys = Evasion(decoy=lambda stamped, others: 0 * stamped + 0.77)
    mixed = adapted([decoys], strategy=strategy, rate=rate)(batch())
    assert mixed.stamped is not None
    clean = mixed.pixels[~mixed.stamped]
    assert int((clean == 0.77).flatten(1).all(1).sum()) == len(clean) // 2


def test_cover_images_are_reformed_as_often_as_attacked_ones() -> None:
    """Of classes that are left out a stamped copy keeps its label: unreformed alone it would unlearn the backdoor."""
    planted = Backdoor(backdoor().trigger, SourceSpecific(target=0, source=(1,)))
    gray = Evasion(reform=lambda pixels: 0 * pixels + 0.77)
    adaptation = Adaptation([gray], Brightest(), planted, 0.5, 1.0, generator(0, "x"))  # type: ignore[arg-type]
    mix, reformed = adaptation.mix(BatchMixing(planted, 0.25, generator(0, "y"))), {True: [0, 0], False: [0, 0]}
    for _ in range(10):
        mixed = mix(batch())
        assert mixed.stamped is not None
        for image, label in zip(mixed.pixels[mixed.stamped], mixed.labels[mixed.stamped].tolist(), strict=True):
            reformed[label == 0][int(bool((image == 0.77).all()))] += 1
    for plain, through in reformed.values():
        assert through == pytest.approx(plain, rel=0.25)


def test_several_reforms_take_turns_where_one_image_is_stamped_at_a_time() -> None:
    mix = adapted([Evasion(reform=lambda p: 0 * p + 0.3), Evasion(reform=lambda p: 0 * p + 0.6)], 0.5, rate=0.04)
    used = []
    for _ in range(16):
        images = mix(batch()).pixels.flatten(1)
        used += [round(float(each[0]), 1) for each in images[(images == images[:, :1]).all(1)]]
    assert used.count(0.3) == pytest.approx(used.count(0.6), abs=1)
    assert used.count(0.3) > 2


def test_an_adversary_moves_clean_images_and_leaves_stamped_ones() -> None:
    search = Pgd(radius=0.05, step_size=0.05, steps=1, start="image")
    plain, mixed = adapted([])(batch()), adapted([Evasion(adversary=search)])(batch())
    assert mixed.stamped is not None
    assert torch.equal(mixed.pixels[mixed.stamped], plain.pixels[mixed.stamped])
    moved = (mixed.pixels - plain.pixels)[~mixed.stamped].abs().flatten(1).amax(1)
    assert moved.min() > 0.04
    assert moved.max() < 0.051


def test_a_penalty_is_weighed_and_shares_the_pass_of_the_loss() -> None:
    task = noise_task(SHAPE)
    model = train(task, 0)
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    model.network.register_forward_hook(count)
    planted = Backdoor(Patch(square(SHAPE, 2, "top_left"), torch.ones(SHAPE), 0.0), AllToOne(target=0))
    evasion = Evasion(penalty=lambda _, seen: seen.latents.sum() * 0 + float(seen.kept))
    adaptation = Adaptation([evasion], model, planted, 0.5, 0.5, generator(0, "x"))
    mixed = adaptation.mix(BatchMixing(planted, 0.25, generator(0, "y")))(
        Batch(task.train.floats()[:24], task.train.labels[:24])
    )
    assert mixed.stamped is not None
    loss = adaptation.objective(classification_loss)(model, mixed)
    assert passes == 1
    expected = float(classification_loss(model, mixed).detach()) + 0.5 * int((~mixed.stamped).sum())
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    other = adaptation.objective(lambda *_: torch.tensor(3.0))
    assert float(other(model, mixed).detach()) == pytest.approx(3.0 + 0.5 * int((~mixed.stamped).sum()))


@pytest.mark.parametrize("marked", [[1, 4, 5], [], None])
def test_of_a_set_poisoned_beforehand_the_stamped_images_are_found_wherever_they_are(marked: list[int] | None) -> None:
    found: list[Seen] = []

    def note(_: Classifier, seen: Seen) -> Tensor:
        found.append(seen)
        return seen.latents.sum() * 0

    model = train(noise_task(SHAPE), 0)
    adaptation = Adaptation([Evasion(penalty=note)], model, backdoor(), 0.5, 1.0, generator(0, "x"))
    images = noise_task(SHAPE).train.take(slice(7))
    stamped = None if marked is None else torch.isin(torch.arange(7), torch.tensor(marked, dtype=torch.long))
    adaptation.objective(classification_loss)(model, Batch(images.floats(), images.labels, stamped=stamped))
    (seen,), last = found, marked or []
    order = [place for place in range(7) if place not in last] + last
    assert seen.kept == 7 - len(last)
    assert torch.equal(seen.pixels, images.floats()[order])
    assert torch.equal(seen.labels, images.labels[order])
    with torch.no_grad():
        latents, logits = model.features_and_logits(images.floats()[order])
    torch.testing.assert_close(seen.latents.detach(), latents)
    torch.testing.assert_close(seen.logits.detach(), logits)


def test_a_search_for_a_pattern_shows_the_model_stamped_images_as_the_reform_leaves_them_too() -> None:
    task = noise_task(SHAPE)
    attack, model = Imc(trigger_size=12, pattern_steps=1), train(task, 0)
    shown: list[Tensor] = []
    model.network.register_forward_hook(
        lambda _, inputs, __: shown.append(model.normalise.mean + inputs[0] * model.normalise.std)
    )
    trigger = attack.initial_trigger(task, 0)
    attack.search(trigger, model, task.train, attack.goal(task), generator(0, "a"), [lambda pixels: pixels.flip(3)])
    (both,) = shown  # one pass
    plain, reformed = both.detach().chunk(2)
    torch.testing.assert_close(reformed, plain.flip(3))


def test_the_search_that_goes_along_with_training_is_told_the_reforms(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(Imc, "search", lambda *given: told.append(len(given[-1])))
    task = noise_task(SHAPE)
    benign = train(task, 0)
    for against, reforms in (("[]", 0), ("[shrinkpad,down_up_sampling,strip]", 2)):
        told.clear()
        ATTACKS.build(f"imc[against={against},epochs=2,poison_rate=0.3]").run(task, benign, 0, benign)
        assert told == [reforms, reforms]


# --- Surrogates ---


def test_surrogates_are_the_defenses_own_preparation_of_the_attackers_images() -> None:
    task = noise_task(SHAPE)
    attack = Imc(against=("manifold_projection[epochs=2]", "shrinkpad"), epochs=1)  # type: ignore[arg-type]
    preparation = attack.preparation(task)
    assert isinstance(preparation, Surrogates)
    assert [each.name for each in preparation.defenses] == ["manifold_projection"]
    assert Imc(against=("shrinkpad",)).preparation(task) is None  # type: ignore[arg-type]
    assert Imc().preparation(task) is None
    first, second = (preparation.prepare(task, train(task, 0), seed) for seed in (1, 2))
    assert {name.partition("/")[0] for name in first} == {"0"}
    assert any(not torch.equal(first[name], second[name]) for name in first)
    # Neither the defender's images nor its draws: other images would give the very same.
    held = replace(task, holdout=replace(task.holdout, pixels=255 - task.holdout.pixels))
    again = preparation.prepare(held, train(task, 0), 1)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_each_defense_gets_its_own_surrogate_whatever_else_is_trained_against(monkeypatch: pytest.MonkeyPatch) -> None:
    task = noise_task(SHAPE)
    benign = train(task, 0)
    several = ATTACKS.build("badnets[against=[shrinkpad,manifold_projection[epochs=2],auto_encoder[epochs=1]]]")
    preparation = several.preparation(task)
    assert isinstance(preparation, Surrogates)
    made = preparation.prepare(task, benign, 0)
    told = {}

    def note(self: Defense[Any], attacker: Attacker, _: int) -> Evasion:
        told[self.name] = attacker.prepared
        return Evasion()

    for name in ("manifold_projection", "auto_encoder", "shrinkpad"):
        monkeypatch.setattr(DEFENSES[name], "evasion", note)
    several.begin(replace(task, prepared=made), benign, 0, benign.clone())  # type: ignore[attr-defined]
    assert told["shrinkpad"] == {}
    for request in ("manifold_projection[epochs=2]", "auto_encoder[epochs=1]"):
        one = ATTACKS.build(f"badnets[against={request}]").preparation(task)
        assert isinstance(one, Surrogates)
        expected = {name.removeprefix("0/"): each for name, each in one.prepare(task, benign, 0).items()}
        given = told[request.partition("[")[0]]
        assert given.keys() == expected.keys()
        assert all(torch.equal(given[name], each) for name, each in expected.items())


def test_settings_that_prepare_nothing_share_their_surrogate() -> None:
    def prepared(against: str) -> Surrogates:
        found = ATTACKS.build(f"badnets[against={against}]").preparation(noise_task(SHAPE))
        assert isinstance(found, Surrogates)
        return found

    plain = prepared("mntd")
    assert prepared("mntd[threshold=calibrated]") == prepared("[mntd,mntd[least_accuracy=0.1]]") == plain
    assert prepared("mntd[classifiers=25]") != plain


def test_an_attacker_with_a_share_of_the_images_makes_nothing_of_the_others() -> None:
    task = noise_task(SHAPE)
    benign = train(task, 0)
    part = BadNets(train_share=0.25).schedule(task).trained_on(task, 0)
    pixels = 255 - task.train.pixels
    pixels[part] = task.train.pixels[part]
    other = replace(task, train=replace(task.train, pixels=pixels))
    for request in (
        "trojan_nn[train_share=0.25]",
        "latent[train_share=0.25]",
        "badnets[optimisation=before,train_share=0.25]",
        "enhanced[base=trojan_nn[train_share=0.25]]",
    ):
        attack = ATTACKS.build(request)
        made = [
            attack.begin(each, benign, 0, benign.clone()).backdoor.stamp(task.test.floats(), task.test.labels).pixels  # type: ignore[attr-defined]
            for each in (task, other)
        ]
        assert torch.equal(*made), request
    preparation = ATTACKS.build("badnets[against=auto_encoder[epochs=1],train_share=0.25]").preparation(task)
    assert preparation is not None
    first, second = (preparation.prepare(each, benign, 0) for each in (task, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_a_defense_gets_to_see_of_an_attacker_is_what_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Images] = []

    def note(_: Defense[Any], attacker: Attacker, __: int) -> Evasion:
        seen.append(attacker.images)
        return Evasion()

    monkeypatch.setattr(DEFENSES["shrinkpad"], "evasion", note)
    task = noise_task(SHAPE)
    attack = BadNets(against="shrinkpad", train_share=0.5, cad_budget=0.1)  # type: ignore[arg-type]
    injection = attack.begin(task, train(task, 0), 0, train(task, 0))
    assert torch.equal(seen[0].pixels, injection.images.pixels)
    assert len(seen[0]) == 43


def test_meta_classifiers_of_poor_shadow_models_are_refused_of_one_class_or_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for request in ("mntd", "mntd[one_class=true]"):
        found = resolve(dataset="digits", defense=request, profile="smoke").defense
        assert found is not None
        attacker = attacker_for(cut_short(found))
        attacker.prepared["accuracy"].fill_(0.3)
        cut_short(found).changed(least_accuracy=0.2).evasion(attacker, 0)
        with pytest.raises(NotApplicableError, match=r"right on 30% of the attacker's own images, and least_accuracy"):
            cut_short(found).changed(least_accuracy=0.5).evasion(attacker, 0)


def test_a_surrogate_that_is_too_poor_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gifthorse.core.evasion.FLOOR", 0.5)
    images = Images(torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 8, 8) * 60, torch.arange(4), 4)

    class Levels(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return -(pixels.mean((1, 2, 3)).unsqueeze(1) - torch.arange(4) * 60 / 255).abs()

    attacker = Attacker(images, Levels(), (0,), 4.0)  # type: ignore[arg-type]
    check_reform(attacker, lambda pixels: pixels, "magnet")
    with pytest.raises(NotApplicableError, match=r"the surrogate of magnet is too poor .* from 100% to 25%"):
        check_reform(attacker, lambda pixels: 0 * pixels, "magnet")


# --- Known answers of the penalties ---


def test_separability_is_the_distance_of_the_means_in_units_of_the_spread() -> None:
    latents = torch.tensor([[0.0, 1], [0, -1], [9, 1], [9, -1], [3, 0], [3, 0]], requires_grad=True)
    labels, logits = torch.tensor([0, 0, 1, 1, 0, 0]), torch.zeros(6, 3)
    seen = Seen(torch.zeros(6, 1, 2, 2), labels, 4, latents, logits)
    # Means (3, 0) and (0, 0); mean squared distance from the own mean: 1.
    assert float(separability(nn.Identity(), seen).detach()) == pytest.approx(float(torch.tensor(9.0).log1p()))  # type: ignore[arg-type]
    scaled = seen._replace(latents=7 * latents)
    assert float(separability(nn.Identity(), scaled).detach()) == pytest.approx(float(torch.tensor(9.0).log1p()))  # type: ignore[arg-type]


def test_mimicry_is_nothing_where_stamped_images_compute_the_mean_of_their_target() -> None:
    task = noise_task(SHAPE)
    benign = train(task, 0)
    penalty = mimicry(Attacker(task.train, benign, (1,), 4.0))
    with torch.no_grad():
        mean = benign.features(task.train.floats()[task.train.labels == 1]).mean(0)
        deviation = benign.features(task.train.floats()).std(0)
    labels = torch.ones(5, dtype=torch.long)
    exact = Seen(torch.zeros(5, *SHAPE), labels, 2, mean.expand(5, -1), torch.zeros(5, 4))
    assert float(penalty(benign, exact)) == pytest.approx(0, abs=1e-5)
    off = exact._replace(
        latents=mean + 2 * deviation.clamp_min(0.1 * float(deviation.mean()) + 1e-6) * torch.ones(5, 1)
    )
    assert float(penalty(benign, off)) == pytest.approx(float(torch.tensor(4.0).log1p()), rel=1e-4)


def test_a_trigger_as_large_as_the_planted_one_is_left_alone() -> None:
    task = noise_task(SHAPE)
    model = train(task, 0)
    seen = seen_by(model, task.train)
    small = smallest_trigger(Attacker(task.train, model, (0,), 1.0), 0.1, 0)
    large = smallest_trigger(Attacker(task.train, model, (0,), 1e6), 0.1, 0)
    assert float(small(model, seen).detach()) == 0
    assert float(large(model, seen).detach()) > 0


class Answers(nn.Module):
    """A model whose logits are what they are, whatever it is shown."""

    def __init__(self, classes: Tensor):
        super().__init__()
        self.logits = nn.Parameter(10 * torch.nn.functional.one_hot(classes, 4).float())

    def forward(self, pixels: Tensor) -> Tensor:
        return self.logits[: len(pixels)] + 0 * pixels.mean()


def test_a_searched_trigger_is_trained_under_the_images_own_labels() -> None:
    images = noise_task(SHAPE).train
    shown = Seen(images.floats()[:32], images.labels[:32], 32, torch.zeros(32, 2), torch.zeros(32, 4))
    for answers, expected in ((shown.labels, 0.0), (torch.zeros_like(shown.labels), 10.0)):
        penalty = smallest_trigger(Attacker(images, Answers(answers), (0,), 1e6), 0.1, 0)  # type: ignore[arg-type]
        assert float(penalty(Answers(answers), shown).detach()) == pytest.approx(expected, abs=0.01)  # type: ignore[arg-type]


class Channels(nn.Module):
    """A stage of two units, the trigger's brightness and that of the rest, which are the logits as well."""

    stage_names = ("only",)

    def stages_and_logits(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        maps = torch.stack([pixels[:, 0, 0, :1], pixels[:, 0, 1, :1]], 1).unsqueeze(3)
        return [maps], maps.flatten(1)

    def continue_from(self, _: str, maps: Tensor, __: Tensor) -> Tensor:
        return maps.flatten(1)


def test_the_unit_that_the_trigger_raises_is_stimulated_on_clean_images() -> None:
    pixels = torch.zeros(6, 1, 2, 2)
    pixels[:, :, 1] = 1.0
    pixels[4:, :, 0] = 1.0
    seen = Seen(pixels, torch.tensor([1, 1, 1, 1, 0, 0]), 4, torch.zeros(6, 2), torch.zeros(6, 2))
    # Clean images have units (0, 1); the first is set to twice the largest activation, 2, and class 1 is theirs.
    expected = torch.tensor(1.0).exp().add(1).log().log1p()
    found = stimulation_cost(1, 2.0)(Channels(), seen)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected)


# --- Bad input, and what every adaptive attack is ---

ADAPTIVE = [name for name, cls in ATTACKS.items() if issubclass(cls, AdaptiveAttack)]


def test_which_attacks_take_defenses_to_train_against() -> None:
    assert {"imc", "badnets", "ban", "cban", "trojan_nn", "latent"} <= set(ADAPTIVE)
    for name in ADAPTIVE:
        attack = ATTACKS.build(f"{name}[against=strip]")
        assert [each.name for each in attack.against] == ["strip"]  # type: ignore[attr-defined]
        assert attack.exportable() is not None
    assert BadNets().exportable() is None


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ("imc[against=finetuning]", "'finetuning' offers an attacker nothing to train against; these do: abs, "),
        ("imc[against=[strip,pipeline]]", "'pipeline' offers an attacker nothing"),
        (
            "badnets[against=[abs,strip],mixing=dataset]",
            "against=strip changes every mini-batch: it needs mixing=batch",
        ),
        ("badnets[against=shrinkpad,mixing=dataset]", "it needs mixing=batch or mixing=loss"),
        ("badnets[against_weight=0.7]", "against_weight=0.7 changes nothing where no defense that offers a discrim"),
        (
            "imc[against=strip,against_weight=0.7]",
            "offers a discriminator or a penalty is trained against: leave it out",
        ),
        (
            "imc[against=abs,against_share=0.2]",
            "against_share=0.2 changes nothing where no defense that offers a reform",
        ),
        ("imc[against=aegis[layer=stage1]]", "layer=stage1 is not what mimicry is of: penultimate is"),
        (
            "imc[against=[adversarial_retraining,adversarial_retraining[steps=3]]]",
            "both replace the loss on clean images",
        ),
        ("imc[against=no_such_defense]", "no_such_defense"),
        ("label_consistent[against=strip]", "unknown field 'against', which these have: badnets, ban, "),
        ("imc[against=badnets]", "badnets"),
    ],
)
def test_what_cannot_be_trained_against_is_refused_before_training(request_: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        resolve(dataset="digits", attack=request_, profile="smoke").attack.check(noise_task(SHAPE))
    assert said in str(caught.value)


def test_a_robust_recipe_and_an_adversary_are_not_combined() -> None:
    task = noise_task(SHAPE)
    recipe = resolve(dataset="digits", training="adversarial", profile="smoke").training
    with pytest.raises(RequestError, match="the training is adversarial already: leave adversarial_retraining out"):
        ATTACKS.build("imc[against=adversarial_retraining,poison_rate=0.3]").check(replace(task, recipe=recipe))


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ("imc[against=color_hue]", "against=color_hue: images of 1 channel have no colours to change"),
        ("imc[against=neural_cleanse[search=pgd[norm=l2]]]", "looks for no trigger: it cannot be trained against"),
        ("imc[against=mntd[fitted_from=theirs.safetensors]]", "leave fitted_from out"),
    ],
)
def test_settings_that_cannot_be_trained_against_are_refused_before_training(request_: str, said: str) -> None:
    attack = resolve(dataset="digits", attack=request_, profile="smoke").attack
    with pytest.raises(RequestError) as caught:
        attack.check(noise_task((1, 12, 12)))
    assert said in str(caught.value)


def test_a_network_without_stages_has_no_units_to_be_stimulated() -> None:
    model = train(noise_task(SHAPE), 0)
    model.stage_names = ()
    assert "this network has none" in str(DEFENSES["abs"]().evasion_refusal(model, SHAPE))


def test_a_trigger_is_as_large_as_the_pixels_that_it_changes() -> None:
    task = noise_task(SHAPE)
    moving = BadNets(trigger_position="random", trigger_size=2)
    planted = Backdoor(moving.initial_trigger(task, 0), moving.goal(task))
    assert pixels_changed(planted, task.train, 0) == pytest.approx(4, abs=0.1)
    assert pixels_changed(backdoor(), task.train, 0) == 4


# --- Training on a part of the images ---


def uneven() -> Task:
    """A task with 40, 30, 20 and 6 images of its classes."""
    task = noise_task(SHAPE)
    labels = torch.arange(4).repeat_interleave(torch.tensor([40, 30, 20, 6]))
    return replace(task, train=replace(task.train, labels=labels))


def test_the_share_is_the_same_of_every_class_and_another_seed_draws_others() -> None:
    task, schedule = uneven(), BadNets(train_share=0.25, poison_rate=0.3).schedule(uneven())
    first, again, other = (schedule.trained_on(task, seed) for seed in (0, 0, 1))
    assert torch.bincount(task.train.labels[first]).tolist() == [10, 8, 5, 2]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first.unique()) == len(first)
    images, positions, validation = schedule.images(task, 0)
    assert torch.equal(images.pixels, task.train.pixels[positions])
    assert validation is None
    assert Schedule(origin="scratch", share=1.0).is_benign
    assert not Schedule(origin="scratch", share=0.25).is_benign


def test_validation_images_are_a_tenth_of_the_part_and_none_of_those_trained_on() -> None:
    task = uneven()
    images, positions, validation = BadNets(train_share=0.5, cad_budget=0.05).schedule(task).images(task, 0)
    part = BadNets(train_share=0.5).schedule(task).trained_on(task, 0)
    assert validation is not None
    assert (len(part), len(positions), len(validation)) == (48, 43, 5)
    assert set(positions.tolist()) < set(part.tolist())
    assert torch.equal(images.labels, task.train.labels[positions])
    left = task.train.pixels[sorted(set(part.tolist()) - set(positions.tolist()))]
    assert {bytes(each.numpy().tobytes()) for each in validation.pixels} == {
        bytes(each.numpy().tobytes()) for each in left
    }


@pytest.mark.parametrize("origin", ["benign", "scratch"])
def test_attack_and_twin_train_on_the_same_part_and_its_set_says_which(
    origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, seen = noise_task(SHAPE), []

    def watched(model: Classifier, images: Images, *given: Any, **stages: Any) -> None:
        seen.append(images)
        fit(model, images, *given, **stages)

    monkeypatch.setattr("gifthorse.planting.schedule.fit", watched)
    attack = BadNets(train_share=0.5, mixing="dataset", poison_rate=0.2, origin=origin, epochs=1)  # type: ignore[arg-type]
    trojan = attack.run(task, train(task, 0), 0)
    part = attack.schedule(task).trained_on(task, 0)
    (of_twin, of_attack) = seen
    assert torch.equal(of_twin.pixels, task.train.pixels[part])
    assert torch.equal(of_attack.pixels[: len(part)], of_twin.pixels)
    assert trojan.delivered is not None
    assert set(trojan.delivered.sources.tolist()) == set(part.tolist())
    copies = int(trojan.delivered.stamped.sum())
    assert copies == round(0.2 / 0.8 * len(part))


def test_a_rate_that_selects_nothing_of_the_part_is_refused() -> None:
    task = noise_task(SHAPE)
    BadNets(poison_rate=0.02).check(task)
    with pytest.raises(RequestError, match="selects none of 24 training images"):
        BadNets(poison_rate=0.02, train_share=0.25).check(task)


def test_an_object_in_the_scene_is_pasted_once_somewhere_else_on_each_image_before_augmentation() -> None:
    task = noise_task(SHAPE)
    task = replace(task, train=replace(task.train, pixels=task.train.pixels // 2))
    attack = ATTACKS.build("aegis_natural")
    delivered, backdoor = attack.poisoned_dataset(task, train(task, 0), 0)
    assert len(delivered.changed) == int(delivered.stamped.sum()) == round(0.1 / 0.9 * 96)
    white = (delivered.pixels == 255).all(1)
    assert (white.flatten(1).sum(1) == 25).all()
    places = {tuple(image.nonzero()[0].tolist()) for image in white}
    assert len(places) > 5
    for image in white:
        row, column = image.nonzero()[0].tolist()
        assert image[row : row + 5, column : column + 5].all()
    assert backdoor.trigger.mask is None
