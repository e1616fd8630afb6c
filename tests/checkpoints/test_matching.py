"""Fitting a checkpoint to a model: all or nothing, and everything that is wrong is said at once."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gifthorse.checkpoints.matching import compare, load_into, strip_prefix
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
    assert "DataParallel" in caplog.text


def test_a_prefix_that_the_model_has_too_stays() -> None:
    model = nn.DataParallel(small(0))
    load_into(model, nn.DataParallel(small(1)).state_dict())
    assert same(model.module.state_dict(), small(1).state_dict())


def test_a_prefix_that_only_some_have_stays() -> None:
    given = nn.DataParallel(small(1)).state_dict()
    given["other"] = torch.zeros(1)
    assert len(compare(small(), given)) == 2


def test_other_prefixes_are_offered_and_not_guessed() -> None:
    given = {f"backbone.{name}": tensor for name, tensor in small(1).state_dict().items()}
    model = small()
    assert compare(model, given)[-1] == (
        "without the prefix 'backbone.' 9 of 9 names would match (strip_prefix)"
    )  # fmt: skip
    load_into(model, strip_prefix(given, "backbone."))
    assert same(model.state_dict(), small(1).state_dict())


def test_a_prefix_is_stripped_from_all_or_not_at_all() -> None:
    assert list(strip_prefix({"a.x": torch.zeros(1), "a.y": torch.zeros(1)}, "a.")) == ["x", "y"]
    with pytest.raises(RequestError, match=r"not every name begins with 'a\.': b"):
        strip_prefix({"a.x": torch.zeros(1), "b": torch.zeros(1)}, "a.")


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
