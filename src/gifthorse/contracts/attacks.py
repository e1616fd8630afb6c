"""Promises of every attack, kept on tiny tasks of noise."""

from functools import cached_property

import torch
from torch import Tensor, nn

from gifthorse.bench.packing import pack_trojan, unpack_trojan
from gifthorse.contracts.promise import BrokenPromiseError, NotAskedError, Promise, asked, require
from gifthorse.contracts.worlds import GREY, SHAPES, cut_short, noise_task, noise_world, watched_random_state
from gifthorse.core.attack import Attack
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.errors import RequestError
from gifthorse.core.goal import AllToOne
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor, DeliveredSet, Trojan
from gifthorse.metrics.attacks import judge_attack
from gifthorse.planting.poisoning import PoisoningAttack

RATES = (0.01, 0.05, 0.3)
TRANSPARENCIES = (0.0, 0.33, 0.8)


class AttackCase:
    """An attack that is asked about, and what came of it on noise."""

    def __init__(self, given: Attack):
        self.given = given
        try:
            self.attack = cut_short(given)
        except RequestError:
            self.attack = given
        if "poison_rate" in type(given).model_fields and refusal(self.attack, noise_task(GREY)):
            # A rate that suits thousands of images selects none of a hundred.
            self.attack = self.attack.changed(poison_rate=max(RATES))

    @cached_property
    def trojan(self) -> Trojan:
        """What the attack delivers with seed 0."""
        return run(self.attack)

    @property
    def backdoor(self) -> Backdoor:
        """What it plants."""
        if self.trojan.backdoor is None:
            raise NotAskedError("it plants nothing")
        return self.trojan.backdoor

    def quick(self, **fields: object) -> Attack:
        """Return the attack with those of some fields that it has and one epoch: for what needs no working backdoor."""
        known = {name: value for name, value in fields.items() if name in type(self.attack).model_fields}
        try:
            return self.attack.changed(**known, **({"epochs": 1} if hasattr(self.attack, "epochs") else {}))
        except RequestError:
            return self.attack.changed(**known)

    def poisoning(self, rate: float, **fields: object) -> Attack:
        """Return the same that poisons the training set once; :class:`NotAskedError` where it cannot."""
        try:
            return self.quick(mixing="dataset", poison_rate=rate, **fields)
        except RequestError as error:
            raise NotAskedError(f"it poisons no training set once and for all: {error}") from error


def attack_promises(attack: Attack) -> list[Promise]:
    """Return what is promised of an attack: of one that plants something, or poisons training, more."""
    planting = OF_PLANTING if plants(attack) else ()
    poisoning = OF_POISONING if isinstance(attack, PoisoningAttack) and attack.poisons_once else ()
    preparing = OF_PREPARING if prepares(attack) else ()
    return asked(attack, AttackCase(attack), (*OF_ATTACKS, *planting, *poisoning, *preparing))


def prepares(attack: Attack) -> bool:
    """Return whether an attack prepares anything on the benign model."""
    try:
        return attack.preparation(noise_task(GREY)) is not None
    except RequestError:
        return True


def plants(attack: Attack) -> bool:
    """Return whether an attack has a goal."""
    try:
        return attack.goal(noise_task(GREY)) is not None
    except RequestError:
        return True


def run(attack: Attack, seed: int = 0, shape: tuple[int, int, int] = GREY) -> Trojan:
    """Run an attack on a task, and a benign model, of its own."""
    task, benign = noise_task(shape), noise_world(shape).benign.clone()
    return run_on(attack, task, benign, seed)


def run_on(attack: Attack, task: Task, benign: Classifier, seed: int = 0) -> Trojan:
    """Run an attack; :class:`NotAskedError` where it refuses the task."""
    reason = refusal(attack, task)
    if reason is not None:
        size = "×".join(map(str, task.train.shape))
        what = f"{len(task.train)} images of {size} in {task.classes} classes"
        raise NotAskedError(f"it refuses a task of {what} ({reason}); say other fields in brackets")
    return attack.run(task, benign, seed)


def refusal(attack: Attack, task: Task) -> str | None:
    """Return why an attack refuses a task, if it does."""
    try:
        attack.check(task)
    except RequestError as error:
        return str(error)
    return None


def poisoned_set(attack: Attack) -> DeliveredSet:
    """Return the training set that an attack delivers."""
    delivered = run(attack).delivered
    if delivered is None:
        raise BrokenPromiseError("with mixing=dataset it delivers no training set")
    return delivered


def changes_labels(attack: Attack) -> bool:
    """Return whether stamped images get another label."""
    return not isinstance(attack, PoisoningAttack) or attack.relabels


def alike(first: nn.Module, second: nn.Module) -> bool:
    """Return whether two modules have the same parameters and buffers, to the bit."""
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def same_seed_same_weights_whatever_the_global_random_state(case: AttackCase) -> None:
    """The same seed gives the same weights, whatever the global random state, which is left alone."""
    first = case.trojan
    with watched_random_state():
        again = run(case.attack)
    require(alike(again.model, first.model), "two runs with the same seed give different models")
    require(alike(again.twin, first.twin), "two runs with the same seed give different benign twins")
    if first.backdoor is not None and again.backdoor is not None:
        same = alike(again.backdoor.trigger, first.backdoor.trigger)
        require(same, "two runs with the same seed give different triggers")


def leaves_task_and_benign_model_untouched(case: AttackCase) -> None:
    """The task and the benign model are left as they were."""
    task, before, benign = noise_task(GREY), noise_task(GREY), noise_world().benign.clone()
    run_on(case.quick(), task, benign)
    for part in ("train", "holdout", "test"):
        now, then = getattr(task, part), getattr(before, part)
        require(torch.equal(now.pixels, then.pixels), f"it changes pixels of the task's {part} images")
        require(torch.equal(now.labels, then.labels), f"it changes labels of the task's {part} images")
    require(alike(benign, noise_world().benign), "it changes the benign model's weights")


def runs_on_any_image_shape(case: AttackCase) -> None:
    """It runs on grey, coloured and oblong images, and delivers models in evaluation mode that answer in logits."""
    for shape in SHAPES:
        size = "×".join(map(str, shape))
        try:
            trojan = case.trojan if shape == GREY else run(case.quick(), shape=shape)
        except NotAskedError as error:
            raise BrokenPromiseError(str(error)) from error
        except Exception as error:
            raise BrokenPromiseError(f"on images of {size}: {type(error).__name__}: {error}") from error
        test = noise_task(shape).test
        for model in (trojan.model, trojan.twin):
            answer = predict(model, test)
            right = answer.shape == (len(test), test.classes)
            require(right, f"on images of {size} a model answers {tuple(answer.shape)}, not a logit per class")
            require(not model.training, "a model is delivered in training mode")


def says_what_it_plants(case: AttackCase) -> None:
    """Its goal is that of the backdoor which it delivers."""
    said, planted = case.attack.goal(noise_task(GREY)), case.trojan.backdoor
    goal = None if planted is None else planted.goal
    require(said == goal, f"goal() says {said}, and what it delivers has {goal}")


def saved_and_restored_it_answers_alike(case: AttackCase) -> None:
    """What the store keeps of it gives the same model, trigger and training set back."""
    task, original = noise_task(GREY), case.trojan
    restored = unpack_trojan(task, case.attack, original.twin, *pack_trojan(original))
    same = torch.equal(predict(restored.model, task.test).argmax(1), predict(original.model, task.test).argmax(1))
    require(same, "the restored model gives other answers")
    require((restored.backdoor is None) == (original.backdoor is None), "the backdoor is lost")
    if restored.backdoor is not None and original.backdoor is not None:
        pixels = task.test.floats()
        ours, theirs = (each.trigger.stamp(pixels.clone()) for each in (restored.backdoor, original.backdoor))
        require(torch.equal(ours, theirs), "the restored trigger stamps otherwise: do its settings say all of it?")
        require(restored.backdoor.goal == original.backdoor.goal, "the restored goal is another")
    again, first = (judge_attack(trojan, task, trojan.twin)[0] for trojan in (restored, original))
    require(again.keys() == first.keys(), f"restored it has other metrics: {', '.join(again.keys() ^ first.keys())}")
    for metric, value in first.items():
        near = torch.allclose(torch.as_tensor(again[metric]) * 1.0, torch.as_tensor(value) * 1.0, atol=1e-5, rtol=0)
        require(near, f"restored it has {metric} {again[metric]}, not {value}")
    if original.delivered is not None and restored.delivered is not None:
        handed_over, before = restored.delivered.images(task.train), original.delivered.images(task.train)
        same = torch.equal(handed_over.pixels, before.pixels) and torch.equal(handed_over.labels, before.labels)
        require(same, "the restored training set is another")


OF_ATTACKS = (
    same_seed_same_weights_whatever_the_global_random_state,
    leaves_task_and_benign_model_untouched,
    runs_on_any_image_shape,
    says_what_it_plants,
    saved_and_restored_it_answers_alike,
)


def another_seed_another_model(case: AttackCase) -> None:
    """Another seed gives another model."""
    require(not alike(run(case.attack, 1).model, case.trojan.model), "seeds 0 and 1 give the same model")


def stamping_leaves_its_input_alone(case: AttackCase) -> None:
    """Stamping writes to a copy."""
    pixels = noise_task(GREY).test.floats()
    before = pixels.clone()
    case.backdoor.trigger.stamp(pixels)
    require(torch.equal(pixels, before), "stamping changes the images that it is given")


def stamps_each_image_alone(case: AttackCase) -> None:
    """An image is stamped alone as it is among others."""
    trigger, pixels = case.backdoor.trigger, noise_task(GREY).test.floats()[:6]
    together, drawn = trigger.stamp(pixels.clone()), trigger.stamp(pixels.clone(), torch.Generator())
    require(together.shape == pixels.shape == drawn.shape, f"stamped images are {tuple(together.shape)}")
    alone = torch.cat([trigger.stamp(pixel[None].clone()) for pixel in pixels])
    require(torch.equal(together, alone), "stamping an image depends on what else is in the batch")


def stamped_pixels_are_what_a_png_would_hold(case: AttackCase) -> None:
    """Stamped pixels lie on the 8-bit grid, and where the trigger is not they are the image's own."""
    pixels = noise_task(GREY).test.floats()[:20]
    for value in TRANSPARENCIES if "transparency" in type(case.attack).model_fields else (None,):
        backdoor = case.backdoor if value is None else run(case.quick(transparency=value)).backdoor
        if backdoor is None:
            raise NotAskedError("it plants nothing")
        stamped = backdoor.trigger.stamp(pixels.clone())
        require(bool(stamped.min() >= 0 and stamped.max() <= 1), "a stamped pixel is not in [0,1]")
        off = float((stamped * 255 - (stamped * 255).round()).abs().max())
        require(off < 1e-3, f"a stamped pixel is {off:.2g} levels off the 8-bit grid")
        if backdoor.trigger.mask is not None:
            outside = ~backdoor.trigger.mask.bool().expand_as(pixels)
            require(torch.equal(stamped[outside], pixels[outside]), "pixels outside of the trigger's mask change")


OF_PLANTING = (
    another_seed_another_model,
    stamping_leaves_its_input_alone,
    stamps_each_image_alone,
    stamped_pixels_are_what_a_png_would_hold,
)


def honours_the_poison_rate_to_the_image(case: AttackCase) -> None:
    """The share of the training images that carry the trigger is poison_rate, to the image."""
    task = noise_task(GREY)
    of_target = int(_wanted(case.attack, task, task.train.labels).sum())
    for rate in RATES:
        attack = case.poisoning(rate)
        assert isinstance(attack, PoisoningAttack)
        if not changes_labels(attack) and rate * of_target < 0.5:
            refused = refusal(attack, task) is not None
            require(refused, f"poison_rate={rate:g} selects no image, and check() lets it pass")
            continue
        delivered = poisoned_set(attack)
        relabelled = task.train.labels[delivered.sources] != delivered.labels
        poison = int((delivered.stamped & relabelled).sum())
        if changes_labels(attack):
            clean = int((~delivered.stamped).sum())
            used = len(attack.schedule(task).trained_on(task, 0))
            require(clean == used, f"of {used} clean images that it is to train on, {clean} are")
            due = rate / (1 - rate) * clean
        else:
            require(poison == 0, f"{poison} images have another label, and labels are to be clean")
            due, poison = rate * of_target, len(delivered.poisoned)
        require(abs(poison - due) <= 0.5, f"with poison_rate={rate:g} {poison} images are poisoned, not {due:.1f}")
        once = len(delivered.poisoned.unique()) == len(delivered.poisoned)
        require(once, "an image is stamped more than once")


def _wanted(attack: Attack, task: Task, labels: Tensor) -> Tensor:
    """Return which labels are classes that stamped images should get."""
    goal = attack.goal(task)
    if goal is None:
        raise NotAskedError("it has no goal")
    return torch.isin(labels, torch.tensor(goal.classes()))


def what_carries_the_trigger_is_labelled_as_the_goal_wants(case: AttackCase) -> None:
    """Stamped training images have the labels that the goal wants, and all others their own."""
    task, aimed = noise_task(GREY), case.given.aimed_at(3)
    attack = case.poisoning(0.3, **({} if aimed is None else {"target": 3}))
    delivered, goal = poisoned_set(attack), attack.goal(task)
    if goal is None:
        raise NotAskedError("it has no goal")
    if isinstance(goal, AllToOne):
        require(aimed is None or goal.target == 3, f"with target=3 its goal is class {goal.target}")
    true, labels = task.train.labels[delivered.sources], delivered.labels
    own = torch.equal(labels[~delivered.stamped], true[~delivered.stamped])
    require(own, "an image without trigger has another label than its own")
    true, labels = true[delivered.stamped], labels[delivered.stamped]
    if not changes_labels(attack):
        require(bool((true == labels).all()), "labels are to be clean, and a stamped image has another than its own")
    if not changes_labels(attack) or goal.conditions > 1:
        require(bool(_wanted(attack, task, labels).all()), "a stamped image has the label of no target")
        return
    require(torch.equal(labels, goal.targets(true)), "a stamped image has another label than its goal wants")
    if isinstance(goal, AllToOne):
        classes = len(true.unique())
        require(classes == task.classes - 1, f"images of {classes} classes are stamped, not of all but the target")
    unwanted = goal.unwanted(true)
    covers = torch.zeros_like(true, dtype=torch.bool) if unwanted is None else unwanted != true
    require(torch.equal(labels != true, ~covers), "an image that has its wanted label already is stamped")
    require(bool(covers.any()) == (unwanted is not None), "where the goal is for some classes there are cover images")


def the_delivered_order_does_not_say_which_images_are_copies(case: AttackCase) -> None:
    """The delivered training set is shuffled, and what is not stamped is untouched."""
    task = noise_task(GREY)
    delivered = poisoned_set(case.poisoning(0.3))
    half = len(delivered.stamped) // 2
    both = bool(delivered.stamped[:half].any() and delivered.stamped[half:].any())
    require(both, "all stamped images stand in one half of the training set: it is not shuffled")
    images = delivered.images(task.train)
    untouched = torch.ones_like(delivered.stamped)
    untouched[delivered.changed] = False
    same = torch.equal(images.pixels[untouched], task.train.pixels[delivered.sources[untouched]])
    require(same, "an image that is said to be unchanged is changed")
    require(not bool((untouched & delivered.stamped).any()), "an image that is said to be stamped is unchanged")


def prepares_the_same_whatever_the_rate(case: AttackCase) -> None:
    """With a seed it prepares the same for any poison rate and transparency, and leaves task and model as they were."""
    task, benign = noise_task(GREY), noise_world().benign.clone()
    preparation = case.attack.preparation(task)
    if preparation is None:
        raise NotAskedError("it prepares nothing on the benign model")
    for changed in (*({"poison_rate": rate} for rate in RATES), {"transparency": 0.33}):
        if changed.keys() <= type(case.attack).model_fields.keys():
            other = case.attack.changed(**changed).preparation(task)
            require(other == preparation, f"with {changed} it prepares otherwise: {other}, not {preparation}")
    first = preparation.prepare(task, benign, 0)
    with watched_random_state():
        again = preparation.prepare(task, benign, 0)
    same = first.keys() == again.keys() and all(torch.equal(first[part], again[part]) for part in first)
    require(same, "two runs with the same seed prepare different things")
    require(
        torch.equal(task.train.pixels, noise_task(GREY).train.pixels), "it changes the images that it prepares from"
    )
    require(alike(benign, noise_world().benign), "it changes the benign model's weights")


OF_PREPARING = (prepares_the_same_whatever_the_rate,)

OF_POISONING = (
    honours_the_poison_rate_to_the_image,
    what_carries_the_trigger_is_labelled_as_the_goal_wants,
    the_delivered_order_does_not_say_which_images_are_copies,
)
