"""NEO where it is known which pixels decide, and against the method written plainly, one image at a time."""

from typing import Literal

import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from gifthorse.core.classifier import Classifier, inference_batch, predict
from gifthorse.core.images import Images
from gifthorse.core.outcomes import InputScreen
from gifthorse.core.views import ModelView
from gifthorse.defenses.filtering.neo import Found, Neo, Search
from worlds import linear_classifier, noise_images

SIDE, TOP, LEFT = 8, 5, 2


def rows_and_a_square() -> tuple[ModelView, Images]:
    """The brightest of three rows decides, unless two pixels by two are white: then the image is of class 0."""
    weight = torch.zeros(4, 1, SIDE, SIDE)
    for row in range(1, 4):
        weight[row, 0, row] = 3.0
    weight[0, 0, TOP : TOP + 2, LEFT : LEFT + 2] = 20.0
    model = linear_classifier(weight, torch.tensor([-50.0, 0, 0, 0]))
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 60, (160, 1, SIDE, SIDE), generator=random, dtype=torch.uint8)
    labels = torch.arange(160) % 3 + 1
    pixels[torch.arange(160), 0, labels] += 150
    images = Images(pixels, labels, 4)
    return ModelView(model, images.take(slice(100))), images.take(slice(100, 160))


def stamped(images: Images) -> Tensor:
    pixels = images.floats()
    pixels[:, :, TOP : TOP + 2, LEFT : LEFT + 2] = 1
    return pixels


def search_of(screen: InputScreen) -> Search:
    assert isinstance(screen.model, Search)
    return screen.model


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("confirmed_by", ["change", "label"])
def test_neo_flags_what_carries_the_square_whatever_size_is_assumed_and_finds_where(
    size: int, confirmed_by: Literal["change", "label"]
) -> None:
    view, images = rows_and_a_square()
    screen = Neo(blocker_size=size, confirmed_by=confirmed_by).defend(view, 0)
    assert screen.threshold == 0.8
    clean, trigger = screen.score(images.floats()), screen.score(stamped(images))
    assert (clean <= screen.threshold).all()
    assert (trigger == 1).all()
    place = search_of(screen).find(stamped(images)).place
    assert ((place <= torch.tensor([TOP, LEFT])) & (place + size >= torch.tensor([TOP + 2, LEFT + 2]))).all()


def test_a_flagged_input_is_answered_without_what_was_found_and_others_as_before() -> None:
    view, images = rows_and_a_square()
    screen = Neo(blocker_size=2).defend(view, 0)
    assert screen.model is not None
    assert (predict(view.model, stamped(images)).argmax(1) == 0).all()
    assert torch.equal(predict(screen.model, stamped(images)).argmax(1), images.labels)
    torch.testing.assert_close(predict(screen.model, images), predict(view.model, images))


def test_inputs_that_were_scored_are_not_searched_again_to_be_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    view, images = rows_and_a_square()
    screen, searched = Neo(blocker_size=2).defend(view, 0), list[int]()
    search, shown = search_of(screen), torch.cat([images.floats(), stamped(images)])
    find = search._find

    def counted(rows: Tensor) -> Found:
        searched.append(len(rows))
        return find(rows)

    monkeypatch.setattr(search, "_find", counted)
    screen.score(shown)
    answers = predict(search, shown)
    assert sum(searched) == len(shown)
    torch.testing.assert_close(predict(search, shown[40:90]), answers[40:90])
    assert sum(searched) == len(shown)
    torch.testing.assert_close(predict(search, shown.flip(0)).flip(0), answers)
    assert sum(searched) == 2 * len(shown)


def undecided(shape: tuple[int, int, int], clean: int) -> ModelView:
    """Noise, and a model whose labels a few pixels may change: its classes have the same mean weight."""
    weight = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    weight -= weight.mean((1, 2, 3), keepdim=True)
    return ModelView(linear_classifier(weight, torch.zeros(3)), noise_images(clean, shape, 3, 1))


def plainly(model: nn.Module, one: Tensor, clean: Tensor, settings: Neo) -> float:
    """The largest share over all positions, with a pass for every image, where there is one cluster of colours."""
    size, colour = settings.blocker_size, one.flatten(1).mean(1)

    def label_of(image: Tensor) -> int:
        return int(model(image[None]).argmax())

    before, best = label_of(one), 0.0
    for top in range(one.shape[1] - size + 1):
        for left in range(one.shape[2] - size + 1):
            part = (slice(None), slice(top, top + size), slice(left, left + size))
            blocked = one.clone()
            blocked[part] = colour.view(-1, 1, 1)
            if label_of(blocked) == before:
                continue
            counted = hits = 0
            for image in clean:
                pasted = image.clone()
                pasted[part] = one[part]
                by_label = settings.confirmed_by == "label"
                if by_label and label_of(image) == before:
                    continue
                counted += 1
                hits += label_of(pasted) == before if by_label else label_of(pasted) != label_of(image)
            best = max(best, hits / max(counted, 1))
    return best


@pytest.mark.parametrize("confirmed_by", ["change", "label"])
@pytest.mark.parametrize("shape", [(1, 5, 5), (3, 4, 6)])
def test_a_score_is_the_largest_share_of_clean_images_that_change_over_all_positions(
    shape: tuple[int, int, int], confirmed_by: Literal["change", "label"]
) -> None:
    view = undecided(shape, 12)
    settings = Neo(blocker_size=2, colours=1, confirmations=12, confirmed_by=confirmed_by)
    pixels = noise_images(10, shape, 3, 2).floats()
    expected = [plainly(view.model, one, view.clean.floats(), settings) for one in pixels]
    assert len(set(expected)) > 3
    torch.testing.assert_close(settings.defend(view, 0).score(pixels), torch.tensor(expected))


def dominant(search: Search, pixels: Tensor) -> Tensor:
    shown: Tensor = search.blocker(pixels.permute(0, 2, 3, 1).flatten(1)).unflatten(1, (9, 3))
    assert (shown == shown[:, :1]).all()
    return shown[:, 0]


def test_the_blocker_has_the_colour_that_most_of_an_image_has() -> None:
    view = ModelView(linear_classifier(torch.zeros(2, 3, 9, 9), torch.zeros(2)), noise_images(4, (3, 9, 9), 2))
    search = search_of(Neo(confirmations=4).defend(view, 0))
    random = torch.Generator().manual_seed(0)
    colours = torch.rand(6, 3, 3, generator=random)
    which = torch.tensor([0] * 50 + [1] * 21 + [2] * 10)[torch.randperm(81, generator=random)]
    pixels = colours[:, which].mT.unflatten(2, (9, 9)).contiguous()
    torch.testing.assert_close(dominant(search, pixels), colours[:, 0])
    noisy = (pixels + 0.01 * torch.randn(pixels.shape, generator=random)).clamp(0, 1)
    for one, found in zip(noisy, dominant(search, noisy), strict=True):
        theirs = KMeans(3, n_init=10, random_state=0).fit(one.flatten(1).T.numpy())
        centre = torch.from_numpy(theirs.cluster_centers_[torch.bincount(torch.from_numpy(theirs.labels_)).argmax()])
        torch.testing.assert_close(found, centre, atol=1e-4, rtol=0)


class Watched(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.sizes: list[int] = []

    def forward(self, pixels: Tensor) -> Tensor:
        self.sizes.append(len(pixels))
        logits: Tensor = self.model(pixels)
        return logits


def watched(view: ModelView, pixels: Tensor, settings: Neo) -> tuple[Found, list[int]]:
    search = search_of(settings.defend(view, 0))
    search.model = counting = Watched(search.model)
    return search.find(pixels), counting.sizes


def test_no_more_images_share_a_pass_than_the_device_is_given_and_few_passes_are_not_full() -> None:
    view, images = rows_and_a_square()
    _, sizes = watched(view, stamped(images), Neo())
    most = inference_batch(torch.device("cpu"))
    assert max(sizes) == most
    assert sum(size < most for size in sizes) <= 3


def test_a_known_position_is_tried_first_and_where_it_is_confirmed_no_other_is() -> None:
    view, images = rows_and_a_square()
    pixels = stamped(images)
    slow, all_passes = watched(view, pixels, Neo(blocker_size=2))
    quick, passes = watched(view, pixels, Neo(blocker_size=2, known=((TOP, LEFT),)))
    assert torch.equal(quick.share, slow.share)
    assert (quick.place == torch.tensor([TOP, LEFT])).all()
    assert sum(passes) == len(pixels) * 102
    assert sum(all_passes) > 1.3 * sum(passes)
    clean = images.floats()
    assert torch.equal(watched(view, clean, Neo(known=((TOP, LEFT),)))[0].share, watched(view, clean, Neo())[0].share)


def test_fewer_positions_may_be_drawn() -> None:
    view, _ = rows_and_a_square()
    search = search_of(Neo(positions=7).defend(view, 0))
    assert len(search.places) == 7
    assert len({tuple(place) for place in search.places.tolist()}) == 7
    assert len(search_of(Neo().defend(view, 0)).places) == (SIDE - 2) ** 2


def test_the_threshold_may_be_set_on_clean_images_that_nothing_is_pasted_on() -> None:
    view = undecided((1, 5, 5), 100)
    screen = Neo(blocker_size=2, threshold="quantile", fpr=0.1, confirmations=40).defend(view, 0)
    assert 0 < screen.threshold < 1
    assert search_of(screen).threshold == screen.threshold
    scores = screen.score(view.clean.floats())
    pasted_on = {image.numpy().tobytes() for image in search_of(screen).clean.view(-1, 1, 5, 5)}
    unseen = torch.tensor([image.numpy().tobytes() not in pasted_on for image in view.clean.floats()])
    assert int(unseen.sum()) == 60
    assert screen.threshold == float(scores[unseen].quantile(0.9, interpolation="higher"))


def test_neo_says_what_it_needs() -> None:
    view, _ = rows_and_a_square()
    assert Neo().skip(view) is None
    assert Neo(confirmations=101).skip(view) == "needs 101 clean images; there are 100"
    assert Neo(threshold="quantile").skip(view) == "needs 120 clean images; there are 100"
    assert "larger than images of 1×8×8" in str(Neo(blocker_size=9).skip(view))
    assert Neo(blocker_size=8).skip(view) is None
    assert "a known position is outside" in str(Neo(known=((6, 0),)).skip(view))
    assert isinstance(view.model, Classifier)
