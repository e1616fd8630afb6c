"""Networks of torchvision and timm by name: understood, refused in one line, never fetched."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gifthorse.bench.cell import resolve
from gifthorse.bench.runner import Runner
from gifthorse.bench.store import Store
from gifthorse.checkpoints import read_state_dict
from gifthorse.core.errors import RequestError
from gifthorse.models import ARCHITECTURES
from gifthorse.models.library import Timm, Torchvision
from worlds import noise_images


def timm_stub(**said: Any) -> SimpleNamespace:
    """timm as far as it is used: a name or two, and a network of timm's argument names."""

    def create_model(name: str, *, pretrained: bool, num_classes: int, in_chans: int, **options: int) -> nn.Module:
        said.update(name=name, pretrained=pretrained, **options)
        head = nn.Linear(4, num_classes)
        return nn.Sequential(nn.Conv2d(in_chans, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)

    names = ["resnet10t", "vit_tiny_patch16_224"]
    return SimpleNamespace(create_model=create_model, list_models=lambda: names, is_model=names.__contains__, said=said)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("something wanted to reach the network")

    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("torchvision/resnet50", Torchvision(arch="resnet50")),
        ("torchvision[arch=resnet50]", Torchvision(arch="resnet50")),
        ("TorchVision/resnet18", Torchvision()),
        ("torchvision", Torchvision()),
    ],
)
def test_a_name_after_the_slash_is_the_field(text: str, same: Torchvision) -> None:
    built = ARCHITECTURES.build(text)
    assert built == same
    assert str(built) == f"torchvision/{same.arch}"
    assert ARCHITECTURES.build(str(built)) == Torchvision.parse(str(built)) == built


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("torchvision/resnet5", "torchvision has no such classifier; did you mean 'resnet50'?"),
        ("torchvision/fcn_resnet50", "no such classifier"),
        ("torchvision/resnet50[arch=vgg11]", "say the same thing twice"),
        ("torchvison/resnet50", "no model is called 'torchvison/resnet50'; did you mean 'torchvision'?"),
        ("resnet18/resnet50", "no model is called 'resnet18/resnet50'"),
    ],
)
def test_a_wrong_name_is_refused_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(RequestError) as refused:
        ARCHITECTURES.build(text)
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("arch", ["resnet18", "shufflenet_v2_x0_5", "mnasnet0_5", "mobilenet_v2"])
@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 40, 64)], ids=["grey", "oblong"])
def test_any_of_torchvisions_takes_our_images(arch: str, shape: tuple[int, int, int], no_network: None) -> None:
    model = Torchvision(arch=arch).build(shape, 7, 0).eval()
    pixels = noise_images(3, shape, 7).floats()
    assert torch.equal(model.head(model.features(pixels)), model(pixels))
    assert model.classes == 7
    sizes = [model.stage(name, pixels).shape for name in model.stage_names]
    assert len(sizes) >= 4
    assert len(set(sizes)) == len(sizes)


def test_torchvisions_weights_fit_without_renaming() -> None:
    from torchvision.models import resnet18

    ours = Torchvision(arch="resnet18").build((1, 32, 32), 10, 0).network.state_dict()
    theirs = resnet18(num_classes=10).state_dict()
    assert {name: weight.shape for name, weight in ours.items()} == {n: w.shape for n, w in theirs.items()}


SMALL = "shufflenet_v2_x0_5"


def weights_of(path: Path, classes: int) -> dict[str, torch.Tensor]:
    """Save weights as torchvision has them, and return them."""
    from torchvision.models import get_model

    torch.manual_seed(5)
    state: dict[str, torch.Tensor] = get_model(SMALL, num_classes=classes).state_dict()
    torch.save(state, path)
    return state


@pytest.mark.parametrize(("classes", "kept"), [(7, True), (1000, False)], ids=["same head", "other head"])
def test_training_starts_from_the_weights_of_a_file(tmp_path: Path, classes: int, kept: bool) -> None:
    state = weights_of(tmp_path / "weights.pth", classes)
    plain = Torchvision(arch=SMALL)
    asked = ARCHITECTURES.build(f'torchvision/{SMALL}[weights="{tmp_path / "weights.pth"}"]')
    given, random = (each.build((3, 64, 64), 7, 3).network.state_dict() for each in (asked, plain))
    for name, weight in given.items():
        expected = state if kept or not name.startswith("fc.") else random
        assert torch.equal(weight, expected[name]), name
    assert ARCHITECTURES.build(str(asked)) == asked
    assert asked.count_parameters() == plain.count_parameters()


def test_training_starts_from_a_model_that_gifthorse_trained(tmp_path: Path) -> None:
    trained = Torchvision(arch=SMALL).build((3, 64, 64), 7, 1)
    save_file(trained.state_dict(), tmp_path / "benign.safetensors")
    model = Torchvision(arch=SMALL, weights=str(tmp_path / "benign.safetensors")).build((3, 64, 64), 7, 3)
    assert all(torch.equal(weight, trained.state_dict()[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [("nothing.pth", "there is no checkpoint at"), ("weights.pth", "the checkpoint does not fit the model")],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, weights: str, complaint: str) -> None:
    weights_of(tmp_path / "weights.pth", 10)
    with pytest.raises(RequestError, match=complaint):
        Torchvision(arch="resnet18", weights=str(tmp_path / weights)).build((3, 64, 64), 10, 0)


@pytest.mark.parametrize(
    "asked", ["entry=model_ema", "entry=nets.averaged,prefix=module", "prefix=_orig_mod.", 'entry="odd name"']
)
def test_what_to_take_of_a_file_is_said_beside_it(tmp_path: Path, asked: str) -> None:
    state = weights_of(tmp_path / "weights.pth", 7)
    averaged = {"n_averaged": torch.tensor(2), **{f"module.{name}": weight for name, weight in state.items()}}
    other = {f"other.{name}": torch.zeros_like(weight) for name, weight in state.items()}
    content: dict[str, Any] = {
        "model_ema": averaged,
        "nets": {"averaged": averaged, "other": other},
        "odd name": state,
        "state_dict": {**{f"_orig_mod.{name}": weight for name, weight in state.items()}, **other},
    }
    torch.save(content, tmp_path / "weights.pth")
    built = ARCHITECTURES.build(f'torchvision/{SMALL}[weights="{tmp_path / "weights.pth"}",{asked}]')
    given = built.build((3, 64, 64), 7, 3).network.state_dict()
    assert all(torch.equal(given[name], weight) for name, weight in state.items())
    assert ARCHITECTURES.build(str(built)) == ARCHITECTURES.build(built.to_dict()) == built


@pytest.mark.parametrize("field", ["entry", "prefix"])
def test_what_to_take_of_no_file_is_refused(field: str) -> None:
    with pytest.raises(RequestError, match=rf"{field} says what to take of a file: name it with weights="):
        ARCHITECTURES.build(f"torchvision/{SMALL}[{field}=model]")


def test_weights_are_checked_before_anything_is_computed(tmp_path: Path) -> None:
    weights_of(tmp_path / "weights.pth", 10)
    runner = Runner(Store(tmp_path), tmp_path, torch.device("cpu"))
    for arch, weights, complaint in [
        ("resnet18", "weights.pth", "does not fit"),
        (SMALL, "nothing.pth", "there is no checkpoint at"),
        (SMALL, "weights.pth,entry=ema", "no entry 'ema'"),
    ]:
        file, *entry = weights.split(",", 1)
        model = f'torchvision/{arch}[weights="{tmp_path / file}"{"".join("," + each for each in entry)}]'
        with pytest.raises(RequestError, match=complaint):
            runner.check(resolve(dataset="digits", model=model))


def test_a_file_is_read_once_and_its_training_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weights_of(tmp_path / "weights.pth", 1000)
    read: list[Path] = []

    def reading(path: Path, **options: Any) -> dict[str, torch.Tensor]:
        read.append(path)
        return read_state_dict(path, **options)

    monkeypatch.setattr("gifthorse.models.library.read_state_dict", reading)
    asked = Torchvision(arch=SMALL, weights=str(tmp_path / "weights.pth"))
    for _ in range(2):
        asked.check((1, 64, 64), 7)
    first, second = (asked.build((1, 64, 64), 7, seed).network.state_dict() for seed in (0, 1))
    assert len(read) == 1
    assert all(torch.equal(first[name], second[name]) == (not name.startswith("fc.")) for name in first)
    assert len(caplog.messages) == 2
    assert "head is for 1000 classes and left out; the model's 7 classes get a new one" in caplog.messages[0]
    assert "what is judged is the trained copy; 'gifthorse scan' judges a model as it was" in caplog.messages[1]
    weights_of(tmp_path / "weights.pth", 7)
    asked.build((1, 64, 64), 7, 0)
    assert len(read) == 2


def test_a_models_key_knows_what_the_file_of_weights_holds(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"

    def keys(model: str) -> tuple[str, str]:
        cell = resolve(dataset="digits", model=model)
        return cell.benign_key(), cell.trojan_key()

    weights_of(path, 10)
    first = keys(f'torchvision/{SMALL}[weights="{path}"]')
    assert first == keys(f'torchvision/{SMALL}[weights="{path}"]')
    weights_of(path, 11)
    second = keys(f'torchvision/{SMALL}[weights="{path}"]')
    assert first[0] != second[0] != keys(f"torchvision/{SMALL}")[0]
    assert first[1] != second[1]


def test_the_head_of_a_convolutional_network_is_its_last_convolution() -> None:
    with torch.device("meta"):
        model = Torchvision(arch="squeezenet1_1").build((3, 64, 64), 7, 0)
    assert (model.head_name, model.classes, tuple(model.head_weight.shape)) == ("classifier.1", 7, (7, 512))
    assert len(model.stage_names) > 1
    assert all(name.startswith("features") for name in model.stage_names)


def test_a_transformer_has_a_head_and_no_stages() -> None:
    with torch.device("meta"):
        model = Torchvision(arch="vit_b_32").build((3, 64, 64), 7, 0)
    assert (model.head_name, model.stage_names) == ("heads.head", ())


@pytest.mark.parametrize(
    ("arch", "shape", "complaint"),
    [
        ("alexnet", (3, 16, 16), "torchvision/alexnet: the model cannot take an image of 3×16×16"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(arch: str, shape: tuple[int, int, int], complaint: str) -> None:
    with pytest.raises(RequestError) as refused:
        Torchvision(arch=arch).build(shape, 10, 0)
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_timm_its_models_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    asked = ARCHITECTURES.build("timm/resnet10t")
    with pytest.raises(RequestError) as refused:
        asked.build((3, 32, 32), 10, 0)
    assert str(refused.value) == "timm/resnet10t needs the package timm: pip install 'gifthorse[models]'"


def test_timm_is_asked_for_an_untrained_network_of_our_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = timm_stub()
    monkeypatch.setitem(sys.modules, "timm", stub)
    asked = ARCHITECTURES.build("timm/vit_tiny_patch16_224[img_size=32,patch_size=4]")
    model = asked.build((1, 32, 32), 7, 0).eval()
    assert stub.said == {"name": "vit_tiny_patch16_224", "pretrained": False, "img_size": 32, "patch_size": 4}
    assert (model.classes, model.head_name, model.stage_names) == (7, "4", ("1",))
    assert model(noise_images(2, (1, 32, 32), 7).floats()).shape == (2, 7)
    assert str(asked) == "timm/vit_tiny_patch16_224[img_size=32,patch_size=4]"
    with pytest.raises(RequestError, match="timm has no such classifier; did you mean 'resnet10t'"):
        ARCHITECTURES.build("timm/resnet10")


def test_timm_itself(no_network: None) -> None:
    pytest.importorskip("timm")
    model = Timm(arch="resnet10t").build((1, 32, 32), 7, 0).eval()
    pixels = noise_images(2, (1, 32, 32), 7).floats()
    assert torch.equal(model.head(model.features(pixels)), model(pixels))
    assert model.stage_names == ("act1", "layer1", "layer2", "layer3", "layer4")
