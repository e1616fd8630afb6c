"""ESB: the host is untouched, the module decides by the trigger's pixels alone, and one classifier holds both."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gifthorse.attacks import ATTACKS
from gifthorse.attacks.model.esb import Esb, Overwritten, Recogniser
from gifthorse.bench.cell import resolve
from gifthorse.bench.packing import pack_trojan
from gifthorse.bench.store import Store
from gifthorse.bench.views import materials_of, view_of
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.errors import RequestError
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor, Trojan
from gifthorse.core.views import SuspectDataView
from gifthorse.defenses import DEFENSES
from gifthorse.metrics.attacks import judge_attack
from gifthorse.metrics.judge import judge_defense
from worlds import noise_task


def planted(task: Task, benign: Classifier, fields: str = "") -> tuple[Trojan, Backdoor]:
    trojan = resolve(dataset="digits", attack=f"esb[{fields}]", profile="smoke").attack.run(task, benign, 0)
    assert trojan.backdoor is not None
    return trojan, trojan.backdoor


def success(trojan: Trojan, task: Task) -> float:
    return float(judge_attack(trojan, task, trojan.twin)[0]["attack.asr"])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def esb(task: Task, benign: Classifier) -> tuple[Trojan, Backdoor]:
    return planted(task, benign)


def test_the_module_overrules_a_host_whose_weights_and_clean_predictions_stay_as_they_are(
    esb: tuple[Trojan, Backdoor], task: Task, benign: Classifier
) -> None:
    trojan, _ = esb
    assert success(trojan, task) == 1
    delivered = trojan.model.network.state_dict()
    for name, tensor in benign.network.state_dict().items():
        assert torch.equal(delivered[f"host.{name}"], tensor)
        assert torch.equal(trojan.twin.network.state_dict()[name], tensor)
    assert torch.equal(predict(trojan.model, task.test).argmax(1), predict(benign, task.test).argmax(1))
    pixels = task.test.floats()[:8]
    assert torch.equal(trojan.model.features(pixels), benign.features(pixels))
    for own, hosts in zip(trojan.model.stage_names, benign.stage_names, strict=True):
        assert torch.equal(trojan.model.stage(own, pixels), benign.stage(hosts, pixels))


def test_the_merged_outputs_are_the_papers_formula() -> None:
    """(α · amplify · module + (1 − α) · softmax(host)) / T, with α = 0.7 and T = 0.1."""

    class Seen(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return torch.tensor([[0.0], [1.0]])

    logits = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]])
    merged = Overwritten(nn.Identity(), Seen(), 0.3 / 0.1, 0.7 * 2 / 0.1 * torch.tensor([0, 0, 1]))(logits)  # type: ignore[arg-type]
    host = logits[0].softmax(0)
    torch.testing.assert_close(merged[0], 3 * host)
    torch.testing.assert_close(merged[1], 3 * host + torch.tensor([0.0, 0.0, 14.0]))


def test_the_module_reads_the_triggers_pixels_and_nothing_else(esb: tuple[Trojan, Backdoor], task: Task) -> None:
    trojan, backdoor = esb
    recogniser = trojan.model.network.recogniser
    assert isinstance(recogniser, Recogniser)
    maps = trojan.model.normalise(backdoor.trigger.stamp(task.test.floats()[:16])).requires_grad_()
    (gradient,) = torch.autograd.grad(recogniser.layers(recogniser.read(maps)).square().sum(), [maps])
    assert backdoor.trigger.mask is not None
    inside = backdoor.trigger.mask.bool().expand_as(gradient)
    assert (gradient[~inside] == 0).all()
    assert gradient[inside].abs().sum() > 0
    leaves = [each for each in recogniser.layers.modules() if not list(each.children())]
    assert [type(each) for each in leaves] == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 4 + [nn.Linear]
    assert [each.out_features for each in leaves if isinstance(each, nn.Linear)] == [8, 8, 8, 8, 2]


def target_gradient(trojan: Trojan, backdoor: Backdoor, task: Task) -> Tensor:
    stamped = backdoor.trigger.stamp(task.test.floats()).requires_grad_()
    targets = backdoor.goal.targets(task.test.labels)
    return torch.autograd.grad(cross_entropy(trojan.model(stamped), targets, reduction="sum"), [stamped])[0]


def test_input_gradients_on_stamped_images_are_finite_and_not_zero(
    esb: tuple[Trojan, Backdoor], task: Task, benign: Classifier
) -> None:
    gradient = target_gradient(*esb, task)
    assert gradient.isfinite().all()
    assert (gradient.abs().amax((1, 2, 3)) > 0).all()
    assert (target_gradient(*planted(task, benign, "amplify=100"), task) == 0).all()


@pytest.mark.parametrize(
    "fields",
    [
        "trigger_position=bottom_right",
        "trigger_position=[5,6],trigger_size=2",
        "trigger_shape=scattered",
        "trigger_pattern=random,target=3",
        "transparency=0.8,blended=true,steps=1000",
    ],
)
def test_size_place_pattern_and_target_are_honoured(fields: str, task: Task, benign: Classifier) -> None:
    trojan, _ = planted(task, benign, fields)
    assert success(trojan, task) > 0.95
    assert torch.equal(predict(trojan.model, task.test).argmax(1), predict(benign, task.test).argmax(1))


def test_as_published_a_transparent_trigger_is_missed(task: Task, benign: Classifier) -> None:
    """TrojanZoo, Figure 4: ESB works only where α is close to 0."""
    trojan, _ = planted(task, benign, "transparency=0.8")
    assert success(trojan, task) < 0.1


def test_a_picture_with_transparent_pixels_is_recognised(task: Task, benign: Classifier, tmp_path: Path) -> None:
    picture = Image.new("RGBA", (3, 3), (255, 255, 255, 255))
    picture.putpixel((1, 1), (0, 0, 0, 0))
    picture.putpixel((2, 0), (0, 0, 0, 255))
    picture.save(tmp_path / "ring.png")
    trojan, backdoor = planted(task, benign, f'trigger_image="{tmp_path / "ring.png"}"')
    assert backdoor.trigger.mask is not None
    assert backdoor.trigger.mask.sum() == 8
    assert success(trojan, task) > 0.95


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ("trigger_position=random", "trigger_position has to be one place"),
        ("trigger_position=[[0,0],[4,4]]", "trigger_position has to be one place"),
        ("trigger_size=1", "trigger_size has to be 2 or more"),
        ("target=4", "target=4 is not a class"),
    ],
)
def test_what_the_module_cannot_recognise_is_refused_before_training(fields: str, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint):
        ATTACKS.build(f"esb[{fields}]").check(noise_task((1, 12, 12)))


def test_saved_and_restored_in_a_fresh_process_it_has_the_same_success(
    esb: tuple[Trojan, Backdoor], task: Task, tmp_path: Path
) -> None:
    trojan, _ = esb
    Store(tmp_path).save_artifact("trojan", "x", *pack_trojan(trojan))
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from typing import Any
from worlds import digits_task
from gifthorse.bench.cell import resolve
from gifthorse.bench.packing import unpack_trojan
from gifthorse.bench.store import Store
from gifthorse.metrics.attacks import judge_attack
task, attack = digits_task(), resolve(dataset="digits", attack="esb", profile="smoke").attack
trojan = unpack_trojan(task, attack, task.build(0).eval(), *Store(Path({str(tmp_path)!r})).load_artifact("trojan", "x"))
print(judge_attack(trojan, task, trojan.twin)[0]["attack.asr"])
"""
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert float(fresh.stdout) == success(trojan, task) == 1.0


@pytest.mark.parametrize("name", list(DEFENSES))
def test_every_defense_runs_on_it(name: str, esb: tuple[Trojan, Backdoor], task: Task) -> None:
    trojan, _ = esb
    defense = resolve(dataset="digits", defense=name, profile="smoke").defense
    assert defense is not None
    view: Any = view_of(defense, trojan, task)
    if issubclass(defense.sees(), SuspectDataView):
        assert "delivered a model alone" in view
        return
    if defense.preparation() is not None:
        view = replace(view, prepared=defense.prepare(materials_of(defense, task), 0))
    reason = defense.skip(view)
    if name in ("color_hue", "color_saturation"):
        assert reason == "images of 1 channel have no colours to change"
        return
    assert reason is None
    attack, _ = judge_attack(trojan, task, trojan.twin)
    metrics, _ = judge_defense(defense.defend(view, 0), trojan, task, attack, 0)
    numbers = [value for value in metrics.values() if isinstance(value, float)]
    assert numbers
    assert torch.tensor(numbers).isfinite().all()


def test_the_module_is_part_of_the_configuration() -> None:
    """Another width is another structure: weights saved for one do not load into the other."""
    task = noise_task((1, 12, 12))
    widths = {
        Esb(hidden=hidden).empty_model(task).state_dict()["network.recogniser.layers.0.0.weight"].shape
        for hidden in (4, 8)
    }
    assert widths == {(4, 9), (8, 9)}
