"""Networks as people bring them: each kind is wrapped and answers as it did, or is refused in one true sentence."""

import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations, prune

from gifthorse.core.classifier import BlackBox, Classifier, predict
from gifthorse.core.combination import CombinedDefense
from gifthorse.core.errors import RequestError
from gifthorse.core.images import Images
from gifthorse.core.views import DataFreeView, ModelView
from gifthorse.defenses import DEFENSES
from gifthorse.inversion.frozen import freeze

SHAPE = (3, 12, 16)
CLASSES = 4


def noise(count: int, shape: tuple[int, int, int] = SHAPE, classes: int = CLASSES) -> Images:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *shape), generator=random, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % classes, classes)


def body(channels: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU()
    )


class Plain(nn.Module):
    def __init__(self, classes: int = CLASSES, channels: int = 3, bias: bool = True):
        super().__init__()
        self.body, self.fc = body(channels), nn.Linear(8, classes, bias)

    def forward(self, images: Tensor) -> Any:
        return self.fc(self.body(images).mean((2, 3)))


class Views(nn.Module):
    """Flattens in some way that asks for a layout."""

    def __init__(self, flatten: Callable[[Tensor], Tensor]):
        super().__init__()
        self.body, self.fc, self.flatten = body(), nn.Linear(8 * 3 * 4, CLASSES), flatten

    def forward(self, images: Tensor) -> Any:
        return self.fc(self.flatten(self.body(images)))


class Flatten(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.view(maps.size(0), -1)


class Gives(Plain):
    """Gives logits, those of a second head, and features, in some form."""

    def __init__(self, form: Callable[[Tensor, Tensor, Tensor], Any]):
        super().__init__()
        self.second, self.form = nn.Linear(8, CLASSES), form

    def forward(self, images: Tensor) -> Any:
        features = self.body(images).mean((2, 3))
        return self.form(self.fc(features), self.second(features), features)


class Pair(NamedTuple):
    logits: Tensor
    other: Tensor


@dataclass
class Record:
    logits: Tensor
    features: Tensor


class ModelOutput(OrderedDict[str, Tensor]):
    """As in transformers."""


class Remembering(Plain):
    def forward(self, images: Tensor) -> Any:
        self.last = self.body(images).mean((2, 3))
        self.kept = [self.last]
        return self.fc(self.last)


class TwoHeads(Plain):
    """As GoogLeNet and Inception: more comes out in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Any:
        features = self.body(images).mean((2, 3))
        logits = self.fc(features)
        return (self.second(features), logits) if self.training else logits


class Tokens(nn.Module):
    """The head runs on every token, and its outputs are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = body(), nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Any:
        return self.fc(self.body(images).flatten(2).transpose(1, 2)).mean(1)


def ends(*after: nn.Module) -> nn.Sequential:
    return nn.Sequential(body(), *after)


def run_before() -> nn.Module:
    network = Remembering()
    network(torch.zeros(2, *SHAPE))
    return network


def pruned() -> nn.Module:
    network = Plain()
    prune.random_unstructured(network.body[3], "weight", 0.5)
    prune.l1_unstructured(network.fc, "weight", 0.2)
    return network


def parametrized() -> nn.Module:
    network = Plain()
    parametrizations.weight_norm(network.body[0])
    parametrizations.spectral_norm(network.fc)
    return network


def normed_the_old_way() -> nn.Module:
    network = Plain()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(network.body[0])
        nn.utils.spectral_norm(network.fc)
    return network


def partly_compiled() -> nn.Module:
    network = Plain()
    network.body = torch.compile(network.body, backend="eager")  # type: ignore[assignment]
    return network


def compiled_in_place() -> nn.Module:
    network = Plain()
    network.compile(backend="eager")
    return network


def mixed() -> nn.Module:
    network = Plain().half()
    network.body[1].float()
    return network


def whole_compiled() -> nn.Module:
    return torch.compile(Plain(), backend="eager")  # type: ignore[return-value]  # what compiles takes seconds to import


def trained_with(momentum: float | None) -> nn.Module:
    network = ends(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, CLASSES)).train()
    norm = network[0][1]  # type: ignore[index]
    norm.momentum = momentum
    return network


def squeezed() -> nn.Module:
    return ends(nn.Sequential(nn.Dropout(), nn.Conv2d(8, CLASSES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), nn.Flatten())


pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten())

KINDS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "view": (lambda: Views(lambda maps: maps.view(maps.size(0), -1)), {}),
    "view of any batch": (lambda: Views(lambda maps: maps.view(-1, 8 * 3 * 4)), {}),
    "view in a chain": (lambda: ends(Flatten(), nn.Linear(8 * 3 * 4, CLASSES)), {}),
    "strides": (lambda: Views(lambda maps: torch.as_strided(maps, (len(maps), 96), (96, 1))), {}),
    "weights with channels last": (
        lambda: Views(lambda maps: maps.view(len(maps), -1)).to(memory_format=torch.channels_last),
        {},
    ),
    "float16": (lambda: Plain().half(), {}),
    "bfloat16": (lambda: Plain().bfloat16(), {}),
    "float64": (lambda: Plain().double(), {}),
    "mixed": (
        lambda: mixed(),
        {},
    ),
    "data parallel": (lambda: nn.DataParallel(Plain()), {}),
    "averaged": (lambda: torch.optim.swa_utils.AveragedModel(Plain()), {}),
    "compiled": (whole_compiled, {}),
    "partly compiled": (partly_compiled, {}),
    "compiled in place": (compiled_in_place, {}),
    "graph": (lambda: torch.fx.symbolic_trace(Plain()), {}),
    "pruned": (pruned, {}),
    "parametrized": (parametrized, {}),
    "normed the old way": (normed_the_old_way, {}),
    "run before": (run_before, {}),
    "frozen": (lambda: Plain().requires_grad_(False), {}),
    "training": (lambda: trained_with(0.1), {}),
    "cumulative statistics": (lambda: trained_with(None), {}),
    "tuple": (lambda: Gives(lambda logits, other, _: (logits, other)), {"output": 0}),
    "tuple, second": (lambda: Gives(lambda logits, other, _: (other, logits)), {"output": 1}),
    "tuple of one": (lambda: Gives(lambda logits, *_: (logits, None)), {}),
    "list": (lambda: Gives(lambda logits, *_: [logits]), {}),
    "named tuple": (lambda: Gives(lambda logits, other, _: Pair(logits, other)), {}),
    "named tuple by place": (lambda: Gives(lambda logits, other, _: Pair(other, logits)), {"output": 1}),
    "dictionary": (lambda: Gives(lambda logits, other, _: {"aux": other, "logits": logits}), {}),
    "dictionary by key": (lambda: Gives(lambda logits, other, _: {"aux": other, "out": logits}), {"output": "out"}),
    "dictionary with maps": (lambda: Gives(lambda logits, *_: {"maps": torch.zeros(2, 4, 3, 3), "out": logits}), {}),
    "record": (lambda: Gives(lambda logits, _, features: Record(logits, features)), {}),
    "model output": (lambda: Gives(lambda logits, _, hidden: ModelOutput(logits=logits, hidden=hidden)), {}),
    "(N, K, 1, 1)": (lambda: Gives(lambda logits, *_: logits[:, :, None, None]), {}),
    "temperature": (lambda: Gives(lambda logits, *_: logits / 2.5), {}),
    "log_softmax": (lambda: nn.Sequential(Plain(), nn.LogSoftmax(1)), {}),
    "squeezenet": (squeezed, {}),
    "convolution, pooled": (lambda: ends(nn.Conv2d(8, CLASSES, 1), *pooled), {}),
    "convolution on 1×1": (lambda: ends(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, CLASSES, 1), nn.Flatten()), {}),
    "convolution, not flattened": (lambda: ends(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, CLASSES, 1)), {}),
    "convolution over the map": (lambda: ends(nn.Conv2d(8, CLASSES, (3, 4)), nn.Flatten()), {}),
    "convolution of 3×3": (lambda: ends(nn.Conv2d(8, CLASSES, 3, padding="same", bias=False), *pooled), {}),
    "tokens": (Tokens, {}),
    "no bias": (lambda: Plain(bias=False), {}),
    "two heads": (TwoHeads, {}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind: str) -> tuple[nn.Module, Classifier]:
    make, named = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = make()
    return network, Classifier.wrap(network, [0.5] * 3, [0.25] * 3, example_shape=SHAPE, **named)


def logits_in(given: Any, output: str | int | None) -> Tensor:
    if isinstance(given, Record):
        return given.logits
    if isinstance(given, Pair) and output is None:
        return given.logits
    if isinstance(given, dict | tuple | list):
        wanted = output if output is not None else "logits" if "logits" in given else "out" if "out" in given else 0
        return given[wanted]  # type: ignore[no-any-return, index]
    assert isinstance(given, Tensor)
    return given


@every_kind
def test_it_answers_as_before_in_any_batch_and_layout_and_stays_as_it_was(kind: str) -> None:
    network, model = made(kind)
    before = [tensor.detach().clone() for tensor in (*network.parameters(), *network.buffers())]
    modes = [part.training for part in network.modules()]
    pixels = noise(8).floats()
    found = predict(model, pixels)
    alone = torch.cat([predict(model, pixel[None]) for pixel in pixels])
    clone = model.clone()
    again = clone.to(memory_format=torch.channels_last)(pixels.contiguous()).detach()
    after = [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]
    assert all(torch.equal(*pair) for pair in zip(after, before, strict=True))
    assert [part.training for part in network.modules()] == modes
    assert not any(part._forward_hooks for part in network.modules())
    with torch.no_grad():
        network = network.float().eval().to(memory_format=torch.contiguous_format)
        given = network(((pixels - 0.5) / 0.25).contiguous())
    expected = logits_in(given, KINDS[kind][1].get("output")).flatten(1)
    assert found.shape == (8, CLASSES)
    for each in (found, alone, again):
        torch.testing.assert_close(each, expected, atol=2e-3 if "float" in kind or kind == "mixed" else 1e-5, rtol=1e-3)


@every_kind
def test_its_parts_fit_together(kind: str) -> None:
    model = made(kind)[1].eval()
    pixels = noise(8).floats()
    with torch.no_grad():
        features, logits = model.features_and_logits(pixels)
        torch.testing.assert_close(logits, model(pixels))
        assert features.shape == (8, model.head_weight.shape[1])
        assert model.head_weight.shape == (model.classes, features.shape[1])
        for name in model.stage_names:
            maps = model.stage(name, pixels)
            torch.testing.assert_close(model.continue_from(name, maps, pixels[:1]), logits)
        torch.testing.assert_close(freeze(model)(pixels), logits, atol=1e-4, rtol=1e-4)


@every_kind
def test_it_can_be_tuned_and_gives_gradients(kind: str) -> None:
    model = DataFreeView(made(kind)[1], shape=SHAPE).model
    pixels = noise(8).floats().requires_grad_()
    (slope,) = torch.autograd.grad(model(pixels).sum(), pixels)
    assert slope.isfinite().all()
    copy = model.clone().to(memory_format=torch.channels_last).train()
    for part in copy.modules():
        if isinstance(part, nn.Dropout):
            part.eval()  # losses are compared, and six steps move them by less than dropout does
    optimizer = torch.optim.SGD(copy.parameters(), 0.1)
    labels = noise(8).labels
    losses = []
    for _ in range(6):
        loss = cross_entropy(copy(pixels.detach()), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(weight.grad is not None for weight in copy.head.parameters())
    assert min(losses[1:]) < losses[0]


@pytest.mark.parametrize(
    "kind",
    ["view", "strides", "frozen", "pruned", "record", "squeezenet", "(N, K, 1, 1)", "two heads", "data parallel"],
)
@pytest.mark.parametrize(
    "defense",
    [
        "neural_cleanse[steps=2,batches=1]",
        "abs[steps=2]",
        "strip[overlays=8]",
        "shrinkpad",
        "fine_pruning[epochs=1]",
        "attribution_detector",
    ],
)
def test_defenses_run_on_it(kind: str, defense: str) -> None:
    view, method = ModelView(made(kind)[1], noise(60)), DEFENSES.build(defense)
    given = view if method.sees() is ModelView else DataFreeView(view.model, shape=SHAPE)
    assert method.skip(given) is None
    outcome = method.defend(given, 0)
    if getattr(outcome, "model", None) is not None:
        assert predict(outcome.model, view.clean).shape == (60, CLASSES)  # type: ignore[attr-defined]


def test_what_takes_any_layout_keeps_the_fast_one() -> None:
    network = Plain()
    model = Classifier.wrap(network, [0.5] * 3, [0.25] * 3, example_shape=SHAPE)
    assert model.layout is None
    model.to(memory_format=torch.channels_last)
    assert network.body[3].weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[operator]


def test_a_network_for_channels_last_alone_gets_them() -> None:
    network = Views(lambda maps: maps.permute(0, 2, 3, 1).view(len(maps), -1)).to(memory_format=torch.channels_last)
    model = Classifier.wrap(network, [0.5] * 3, [0.25] * 3, example_shape=SHAPE).eval()
    pixels = noise(6).floats()
    shown = ((pixels - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)
    network.eval()
    for given in (pixels, pixels.contiguous()):
        torch.testing.assert_close(model(given), network(shown))
    assert model.to(memory_format=torch.contiguous_format)(pixels[:1]).shape == (1, CLASSES)


def test_weights_stay_in_the_layout_inside_of_another_module() -> None:
    model = Classifier.wrap(Views(lambda maps: maps.view(len(maps), -1)), [0.5] * 3, [0.25] * 3, example_shape=SHAPE)
    around = nn.Sequential(model.behind(nn.Identity()), nn.Softmax(1)).to(memory_format=torch.channels_last).eval()
    assert around(noise(2).floats()).shape == (2, CLASSES)


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Sigmoid()])
def test_probabilities_are_undone_on_request(last: nn.Module) -> None:
    inner = Plain().eval()
    network = nn.Sequential(inner, last)
    with pytest.raises(RequestError, match=f"ends in a {type(last).__name__.lower()}"):
        Classifier.wrap(network, [0.5] * 3, [0.25] * 3, example_shape=SHAPE)
    model = Classifier.wrap(network, [0.5] * 3, [0.25] * 3, example_shape=SHAPE, probabilities=True)
    logits, expected = predict(model, noise(8)), inner((noise(8).floats() - 0.5) / 0.25).detach()
    torch.testing.assert_close(logits.log_softmax(1), expected.log_softmax(1), atol=1e-4, rtol=1e-4)


def test_probabilities_of_a_convolution_are_found_as_well() -> None:
    network = ends(nn.Conv2d(8, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(1))
    with pytest.raises(RequestError, match="ends in a softmax"):
        Classifier.wrap(network, [0.5] * 3, [0.25] * 3, example_shape=SHAPE)


def test_the_features_of_a_convolution_lead_to_the_mean_of_its_maps() -> None:
    for head in (nn.Conv2d(8, CLASSES, 3, 2, 1), nn.Conv2d(8, CLASSES, 1), nn.Conv2d(8, CLASSES, 2, dilation=2)):
        model = Classifier.wrap(ends(head, *pooled), [0.5] * 3, [0.25] * 3, example_shape=SHAPE).eval()
        features, logits = model.features_and_logits(noise(5).floats())
        assert head.bias is not None
        torch.testing.assert_close(features @ model.head_weight.T + head.bias, logits)


def test_the_stages_of_a_convolutional_network_end_before_its_head() -> None:
    assert made("squeezenet")[1].stage_names == ("0",)
    assert made("squeezenet")[1].head_name == "1.1"


def test_a_cast_is_said_and_the_network_stays(caplog: pytest.LogCaptureFixture) -> None:
    network = Plain().half()
    with caplog.at_level(logging.INFO, "gifthorse"):
        model = Classifier.wrap(network, [0.5] * 3, [0.25] * 3, example_shape=SHAPE)
        Classifier.wrap(nn.Sequential(Plain(), nn.LogSoftmax(1)), [0.5] * 3, [0.25] * 3, example_shape=SHAPE)
    assert caplog.messages == [
        "the model's weights are float16; a copy of it that is cast to float32 is looked at",
        "the model gives the logarithms of probabilities, which serve as logits",
    ]
    assert {weight.dtype for weight in network.parameters()} == {torch.float16}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
        return torch.jit.trace(nn.Sequential(nn.Flatten(), nn.Linear(576, 4)), torch.zeros(1, *SHAPE))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (scripted, "TorchScript"),
        (lambda: nn.Sequential(nn.Flatten(), scripted()), "TorchScript"),
        (lambda: Plain().state_dict(), "this is a state dict"),
        (lambda: len, "a network is a torch.nn.Module"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), "lazy layers"),
        (lambda: Gives(lambda logits, other, _: (logits, other)), "say with output="),
        (lambda: Gives(lambda logits, *_: {"text": "a"}), "none of them is a batch of logits"),
        (lambda: Gives(lambda logits, *_: logits[:, 0]), "it gives a tensor (2,)"),
        (lambda: Gives(lambda logits, *_: None), "it gives NoneType"),
        (lambda: Gives(lambda logits, *_: logits.argmax(1)), "it gives a tensor (2,) of int64"),
        (lambda: ends(nn.Conv2d(8, 4, 1)), "it gives a tensor (2, 4, 3, 4)"),
        (lambda: ends(nn.Conv2d(8, 4, 1, groups=4), *pooled), "no convolution gives a map per class"),
        (lambda: Gives(lambda logits, *_: logits.cumsum(1)), "linear layer 'second' cannot be the head"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(make: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(RequestError) as refused:
        Classifier.wrap(make(), [0.5] * 3, [0.25] * 3, example_shape=SHAPE)
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("named", "complaint"),
    [
        ({"output": 2}, "output=2 is not among what the model gives: 0: a tensor (2, 4), 1: a tensor (2, 4)"),
        ({"output": "logits"}, "output='logits' is not among"),
        ({"output": 0, "probabilities": True}, "there is no softmax or sigmoid to undo"),
        ({"output": 0, "mean": [0.5]}, "mean has 1 and std 3 numbers; images have 3 channels"),
        ({"output": 0, "std": [0.5, 0.0, 0.5]}, "std must be above 0"),
    ],
)
def test_what_is_said_wrongly_is_refused(named: dict[str, Any], complaint: str) -> None:
    network = Gives(lambda logits, other, _: (logits, other))
    with pytest.raises(RequestError) as refused:
        Classifier.wrap(network, **{"mean": [0.5] * 3, "std": [0.25] * 3, "example_shape": SHAPE, **named})
    assert complaint in str(refused.value)


class NotFinite(Plain):
    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.fc.bias, -99.0)

    def forward(self, images: Tensor) -> Any:
        return self.fc(self.body(images).mean((2, 3))).log()


class OfThreeChannels(BlackBox):
    """A model behind a counter: nothing of it but its answers."""

    shape, classes = SHAPE, CLASSES

    def answer(self, pixels: Tensor) -> Tensor:
        return torch.stack([pixels.mean((1, 2, 3)), *pixels.mean((2, 3)).unbind(1)], 1)


def seen(defense: str, model: Any, images: Images) -> tuple[Any, Any]:
    method = DEFENSES.build(defense)
    kind = method.sees()
    shown: dict[str, Any] = {
        "clean": images,
        "suspect": images,
        "known_classes": (0,),
        "trainer": None,
        "shape": images.shape,
    }
    names = {name for each in kind.__mro__ for name in vars(each).get("__annotations__", {})}
    needless = {"shape"} if kind is not DataFreeView else set()
    return method, kind(model=model, **{name: each for name, each in shown.items() if name in names - needless})


@pytest.mark.parametrize("defense", sorted(DEFENSES))
def test_no_defense_looks_at_outputs_that_are_not_finite(defense: str) -> None:
    model = Classifier.wrap(NotFinite(), [0.5] * 3, [0.25] * 3, example_shape=SHAPE)
    method, view = seen(defense, model, noise(200))
    assert "are not finite numbers" in str(method.skip(view))


@pytest.mark.parametrize("defense", sorted(DEFENSES))
def test_a_black_box_is_asked_or_skipped_with_a_sentence(defense: str) -> None:
    method, view = seen(defense, OfThreeChannels(), noise(200))
    reason = method.skip(view)
    if isinstance(method, CombinedDefense):
        members = [DEFENSES.build(str(each)).black_box for each in method.defenses]
        assert (reason is None) == all(members)
    elif defense == "mntd":
        assert reason == "shadow models need to be made as the model was, and nobody says how"
    elif method.black_box:
        assert reason is None
    else:
        assert reason == "needs the model's layers and gradients; this one is a black box (OfThreeChannels)"


@pytest.mark.parametrize(
    "defense",
    [
        "strip[overlays=8]",
        "neo[positions=2,confirmations=20]",
        "shrinkpad",
        "transformation[votes=2]",
        "randomized_smoothing",
        "down_up_sampling",
        "pipeline[defenses=[flip,strip[overlays=8]]]",
    ],
)
def test_what_asks_for_answers_alone_runs_on_a_black_box(defense: str) -> None:
    method, view = seen(defense, OfThreeChannels(), noise(80))
    assert method.skip(view) is None
    outcome = method.defend(view, 0)
    if hasattr(outcome, "score"):
        assert outcome.score(noise(8).floats()).isfinite().all()
    if getattr(outcome, "model", None) is not None:
        assert predict(outcome.model, noise(8)).shape == (8, CLASSES)


def test_a_black_box_behind_two_reforms_sees_the_first_one_first() -> None:
    class Plus(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return pixels + 1

    class Times(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return pixels * 3

    model = OfThreeChannels()
    zeros = torch.zeros(1, *SHAPE)
    assert float(model.behind(Times()).behind(Plus())(zeros)[0, 0]) == 3
    assert float(model(zeros)[0, 0]) == 0


class Detached(Plain):
    def forward(self, images: Tensor) -> Any:
        with torch.no_grad():
            features = self.body(images).mean((2, 3))
        return self.fc(features)


def test_a_model_without_gradients_is_asked_for_answers_alone() -> None:
    model = Classifier.wrap(Detached(), [0.5] * 3, [0.25] * 3, example_shape=SHAPE)
    for defense in ("neural_cleanse", "dhbe", "finetuning"):
        method, view = seen(defense, model, noise(100))
        assert "no gradient of the model's answers reaches the image" in str(method.skip(view))
    for defense in ("strip", "shrinkpad"):
        method, view = seen(defense, model, noise(100))
        assert method.skip(view) is None


def test_parts_may_be_called_as_in_the_wrapper() -> None:
    network = nn.DataParallel(partly_compiled())
    named = {"head": "module.fc", "stages": ["module.body._orig_mod.4", "body.2"]}
    model = Classifier.wrap(network, [0.5] * 3, [0.25] * 3, example_shape=SHAPE, **named)  # type: ignore[arg-type]
    assert (model.head_name, model.stage_names) == ("fc", ("body.2", "body.4"))


@pytest.mark.parametrize(
    ("model", "images", "reason"),
    [
        (lambda: Plain().to("meta"), noise(60), "on the meta device"),
        (Plain, noise(60, classes=7), "the images are of 7 classes, the model knows 4"),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(576, 4)),
            noise(60, (3, 9, 9)),
            "the model cannot take images of 3×9×9",
        ),
    ],
)
def test_a_model_that_cannot_judge_the_images_is_skipped_by_any_defense(
    model: Callable[[], nn.Module], images: Images, reason: str
) -> None:
    wrapped = Classifier.wrap(model(), [0.5] * 3, [0.25] * 3, example_shape=SHAPE)
    for defense in ("strip", "neural_cleanse", "finetuning", "activation_clustering"):
        method, view = seen(defense, wrapped, images)
        assert reason in str(method.skip(view))


def test_a_view_of_what_is_no_classifier_says_how_to_make_one() -> None:
    with pytest.raises(RequestError, match=r"not a Plain; Classifier\.wrap"):
        ModelView(Plain(), noise(8))  # type: ignore[arg-type]


def test_what_cannot_be_copied_is_said() -> None:
    network = Plain()
    network.random = torch.Generator()  # type: ignore[assignment]
    model = Classifier.wrap(network, [0.5] * 3, [0.25] * 3, example_shape=SHAPE)
    try:
        copied = model.clone()
    except RequestError as error:
        assert "the model cannot be copied" in str(error)
    else:
        assert copied is not model


@pytest.mark.parametrize(("channels", "classes"), [(1, 4), (4, 4), (5, 3), (3, 2), (3, 1)])
def test_any_number_of_channels_and_classes(channels: int, classes: int) -> None:
    shape = (channels, 12, 16)
    model = Classifier.wrap(Plain(classes, channels), [0.5] * channels, [0.25] * channels, example_shape=shape)
    assert (model.classes, predict(model, noise(3, shape, classes)).shape) == (classes, (3, classes))
