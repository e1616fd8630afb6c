"""Fitting a checkpoint to a model: all or nothing, and everything that is wrong is said at once."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from gifthorse.checkpoints.matching import (
    classes_of,
    compare,
    load_delivered,
    load_into,
    start_weights,
    strip_prefix,
)
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(autouse=True)
def restore_random_state() -> Any:
    with torch.random.fork_rng():
        yield


def test_what_fits_is_loaded_exactly() -> None:
    model, given = small(0), small(1).state_dict()
    assert compare(model, given) == []
    load_into(model, given)
    assert same(model.state_dict(), given)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_converted(dtype: torch.dtype) -> None:
    model, given = small(0), small(1).to(dtype).state_dict()
    load_into(model, given)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert same(model.state_dict(), small(1).to(dtype).float().state_dict())


def test_double_precision_is_taken_where_nothing_is_lost() -> None:
    model, given = small(0), small(1).double().state_dict()
    load_into(model, given)
    assert same(model.state_dict(), small(1).state_dict())
    given["3.bias"] = torch.tensor([0.1, 1e300], dtype=torch.float64)
    (line,) = compare(model, given)
    assert line == "not exact in the model's type (1): 3.bias from float64 to float32"


def everything_wrong() -> dict[str, Tensor]:
    given = copied(small(1).state_dict())
    del given["3.bias"]
    given["extra"] = torch.zeros(1)
    given["0.weight"] = torch.zeros(4, 3, 5, 5)
    given["0.weight"][0, 0, 0, 0] = torch.inf
    given["0.bias"] = torch.zeros(4, dtype=torch.int64)
    given["1.weight"] = torch.tensor([1.0, torch.nan, torch.nan, -torch.inf])
    given["1.num_batches_tracked"] = torch.tensor(3.0)
    given["1.bias"] = torch.full((4,), 0.1, dtype=torch.float64)
    return given


def test_everything_is_reported_at_once() -> None:
    assert compare(small(), everything_wrong()) == [
        "missing (1): 3.bias",
        "unexpected (1): extra",
        "of another shape (1): 0.weight is (4, 3, 5, 5), should be (4, 3, 3, 3)",
        "of another type (2): 0.bias is int64, should be float32, 1.num_batches_tracked is float32, should be int64",
        "not exact in the model's type (1): 1.bias from float64 to float32",
        "not finite (2): 0.weight has 1 of 300, 1.weight has 3 of 4",
    ]


def test_a_model_is_left_as_it_was_unless_everything_fits() -> None:
    model = small()
    before = copied(model.state_dict())
    with pytest.raises(RequestError) as caught:
        load_into(model, everything_wrong())
    assert same(model.state_dict(), before)
    assert str(caught.value).count("\n- ") == len(compare(model, everything_wrong()))


def test_a_thousand_problems_are_a_short_message() -> None:
    given = {f"layer{index}": torch.full((1,), torch.nan) for index in range(1000)}
    missing, unexpected = compare(small(), given)
    assert missing.startswith("missing (9): 0.weight, ")
    assert unexpected.endswith("layer8, layer9 and 990 more")
    assert unexpected.startswith("unexpected (1000)")


def test_an_empty_checkpoint_lacks_everything() -> None:
    assert [line.split(":")[0] for line in compare(small(), {})] == ["missing (9)"]


def test_names_of_a_hostile_file_do_not_drive_the_terminal() -> None:
    (line,) = compare(small(), {**small().state_dict(), "\x1b[2J\n": torch.zeros(1)})
    assert line == r"unexpected (1): \x1b[2J\n"


def test_data_parallels_prefix_is_taken_off_and_said(caplog: pytest.LogCaptureFixture) -> None:
    model, given = small(0), nn.DataParallel(small(1)).state_dict()
    with caplog.at_level(logging.INFO, "gifthorse"):
        load_into(model, given)
    assert same(model.state_dict(), small(1).state_dict())
    assert "'module.', which is taken off" in caplog.text


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def tidy(records: list[str]) -> str:
    return " | ".join(records)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda sd: prefixed("_orig_mod.", sd), "begin with '_orig_mod.'"),
        (lambda sd: prefixed("module._orig_mod.", sd), "begin with 'module._orig_mod.'"),
        (lambda sd: prefixed("_orig_mod.module.", sd), "begin with '_orig_mod.module.'"),
        (lambda sd: prefixed("model.", sd), "begin with 'model.'"),
        (lambda sd: prefixed("net.backbone.", sd), "begin with 'net.backbone.'"),
        (lambda sd: prefixed("network.", sd), "begin with 'network.'"),
        # torch.optim.swa_utils.AveragedModel, as torchvision's reference script saves it too.
        (lambda sd: {"n_averaged": torch.tensor(3), **prefixed("module.", sd)}, "no place for them (1): n_averaged"),
        (lambda sd: {**sd, "best_acc": torch.tensor(0.9)}, "no place for them (1): best_acc"),
        # A profiler's counters, as thop leaves them in every module.
        (
            lambda sd: {
                **sd,
                "total_ops": torch.zeros(1),
                "0.total_ops": torch.zeros(1),
                "0.total_params": sd["0.bias"],
            },
            "no place for them (3): total_ops, 0.total_ops, 0.total_params",
        ),
        (lambda sd: {**sd, "aux1.fc.weight": torch.zeros(2, 2)}, "no place for them (1): aux1.fc.weight"),
        # What wraps a body and a head, as openmmlab's classifiers do.
        (
            lambda sd: {("head." if name[0] == "3" else "backbone.") + name: each for name, each in sd.items()},
            "begin with 'backbone.' or 'head.', which is taken off",
        ),
        (lambda sd: {n: each for n, each in sd.items() if "tracked" not in n}, "lacks 1 of num_batches_tracked"),
        (
            lambda sd: {f"module.{n}": each for n, each in sd.items() if "tracked" not in n},
            "taken off | the checkpoint lacks 1 of num_batches_tracked",
        ),
    ],
)
def test_what_training_code_adds_to_names_is_taken_off_and_said(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, original = small(0), small(1).state_dict()
    load_into(model, change(original))
    assert same(model.state_dict(), original)
    assert said in tidy(caplog.messages)
    assert compare(model, change(original)) == []


def test_what_fits_is_loaded_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    load_into(small(0), small(1).state_dict())
    assert caplog.messages == []


def test_a_prefix_that_the_model_has_too_stays() -> None:
    model = nn.DataParallel(small(0))
    load_into(model, nn.DataParallel(small(1)).state_dict())
    assert same(model.module.state_dict(), small(1).state_dict())


def test_names_that_end_alike_are_not_confused() -> None:
    def nest(seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))

    model = nest(0)
    load_into(model, prefixed("1.", nest(1).state_dict()))
    assert same(model.state_dict(), nest(1).state_dict())


def both_encoders() -> dict[str, Tensor]:
    """What MoCo saves: two networks, and a queue."""
    query, key = (prefixed(f"module.encoder_{n}.", small(s).state_dict()) for n, s in (("q", 1), ("k", 2)))
    return {**query, **key, "module.queue": torch.zeros(3, 3)}


def test_a_prefix_that_leaves_something_over_is_the_callers_to_name(caplog: pytest.LogCaptureFixture) -> None:
    model, lines = small(0), compare(small(0), both_encoders())
    assert lines[2:] == [
        "with prefix=module.encoder_q. 9 of the model's 9 names would be there",
        "with prefix=module.encoder_k. 9 of the model's 9 names would be there",
    ]
    for prefix, seed in (("module.encoder_q.", 1), ("module.encoder_k", 2)):
        load_into(model, both_encoders(), prefix=prefix)
        assert same(model.state_dict(), small(seed).state_dict())
    assert "names do not begin with module.encoder_q. (10): module.encoder_k.0.weight, " in caplog.messages[0]
    with pytest.raises(RequestError, match=r"no name in the checkpoint begins with prefix=nope; it has module\."):
        load_into(model, both_encoders(), prefix="nope")
    given = {**nn.DataParallel(small(1)).state_dict(), "other": torch.zeros(1)}
    assert compare(small(), given)[2:] == ["with prefix=module. 9 of the model's 9 names would be there"]


def test_pruned_layers_are_told() -> None:
    model = small(1)
    prune.random_unstructured(model[0], "weight", amount=0.5)
    assert compare(small(), model.state_dict())[-1] == (
        "its layers are reparametrised (pruned, weight norm): make that permanent before saving"
    )


def test_a_prefix_is_stripped_from_all_or_not_at_all() -> None:
    assert list(strip_prefix({"a.x": torch.zeros(1), "a.y": torch.zeros(1)}, "a.")) == ["x", "y"]
    with pytest.raises(RequestError, match=r"not every name begins with 'a\.': b"):
        strip_prefix({"a.x": torch.zeros(1), "b": torch.zeros(1)}, "a.")


# Whole classifiers


def classifier(seed: int, classes: int = 2) -> Classifier:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    network.append(nn.Linear(16, classes))
    return Classifier.wrap(network, [0.1 * (seed + 1)] * 3, [0.2] * 3)


SAVED: dict[str, Callable[[Classifier], dict[str, Tensor]]] = {
    "the network": lambda model: model.network.state_dict(),
    "a wrapped network": lambda model: prefixed("module.", model.network.state_dict()),
    "somebody's module": lambda model: prefixed("network.", model.network.state_dict()),
    "a classifier": lambda model: model.state_dict(),
    "a trojan of the store": lambda model: {**prefixed("model/", model.state_dict()), "trigger/mask": torch.ones(1)},
}


@pytest.mark.parametrize("kind", SAVED)
def test_a_delivered_model_is_loaded_whole(kind: str) -> None:
    model, original = classifier(0), classifier(1)
    load_delivered(model, SAVED[kind](original))
    assert same(model.network.state_dict(), original.network.state_dict())
    with_normalisation = kind in ("a classifier", "a trojan of the store")
    assert torch.equal(model.normalise.mean, (original if with_normalisation else classifier(0)).normalise.mean)


@pytest.mark.parametrize("kind", SAVED)
def test_a_delivered_model_for_other_classes_is_refused_in_one_sentence(kind: str) -> None:
    model, given = classifier(0), SAVED[kind](classifier(1, classes=7))
    before = copied(model.state_dict())
    with pytest.raises(RequestError, match=r"head knows 7 classes, and 2 are needed: use images of the 7") as refused:
        load_delivered(model, given)
    assert "\n" not in str(refused.value)
    assert same(model.state_dict(), before)


@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.parametrize("without", ["nothing", "head", "its classes"])
def test_training_starts_with_a_new_head_where_it_has_to(
    kind: str, without: str, caplog: pytest.LogCaptureFixture
) -> None:
    given = SAVED[kind](classifier(1, classes=7 if without == "its classes" else 2))
    if without == "head":
        given = {name: each for name, each in given.items() if "4." not in name}
    with torch.device("meta"):
        model = classifier(0)
    start = start_weights(model, given)
    kept = {name.removeprefix("network.") for name in start if not name.startswith("normalise.")}
    missing = set() if without == "nothing" else {"4.weight", "4.bias"}
    assert kept == set(classifier(1).network.state_dict()) - missing
    said = {"nothing": "", "head": "head is missing", "its classes": "head is for 7 classes and left out"}[without]
    assert said in tidy(caplog.messages)


def test_a_projection_head_of_pre_training_is_left_out() -> None:
    body = {name: each for name, each in classifier(1).network.state_dict().items() if not name.startswith("4.")}
    projection = {"4.0.weight": torch.zeros(16, 16), "4.2.weight": torch.zeros(8, 16)}
    given = prefixed("module.encoder_q.", {**body, **projection})
    assert start_weights(classifier(0), given).keys() == {f"network.{name}" for name in body}


@pytest.mark.parametrize(
    ("shapes", "classes"),
    [
        ({"conv1.weight": (64, 3, 7, 7), "fc.weight": (7, 512), "fc.bias": (7,)}, 7),
        ({"module.fc.weight": (7, 512), "module.layer1.0.se.fc.0.weight": (16, 256)}, 7),
        ({"classifier.0.weight": (4096, 512), "classifier.10.weight": (7, 64), "classifier.6.weight": (64, 4096)}, 7),
        ({"blocks.0.mlp.fc1.weight": (99, 9), "head.weight": (7, 9), "norm.weight": (9,)}, 7),
        ({"features.0.weight": (99, 3, 1, 1), "classifier.1.weight": (7, 99, 1, 1)}, 7),
        ({"aux1.fc.weight": (99, 9), "fc.weight": (7, 9)}, 7),
        ({"0.weight": (4, 3, 3, 3), "5.weight": (9, 4), "7.weight": (7, 9)}, 7),
        ({"0.weight": (4, 3, 3, 3)}, None),
        ({}, None),
    ],
)
def test_how_many_classes_a_checkpoint_knows(shapes: dict[str, tuple[int, ...]], classes: int | None) -> None:
    assert classes_of({name: torch.zeros(shape) for name, shape in shapes.items()}) == classes


def test_how_many_classes_a_named_head_knows() -> None:
    given = {"a.top.weight": torch.zeros(7, 4), "a.fc.weight": torch.zeros(9, 4), "stop.weight": torch.zeros(5, 4)}
    assert classes_of(given, head="top") == 7
    assert classes_of(given, prefix="a.") == 9
    assert classes_of(given, head="bottom") is None


class WithExtraState(nn.Linear):
    """A layer that keeps something beside tensors."""

    def get_extra_state(self) -> object:
        return {"note": 1}

    def set_extra_state(self, state: object) -> None:
        assert state == {"note": 1}


def test_extra_state_is_not_asked_of_a_checkpoint() -> None:
    model = WithExtraState(2, 3)
    given = nn.Linear(2, 3).state_dict()
    load_into(model, given)
    assert torch.equal(model.weight, given["weight"])
