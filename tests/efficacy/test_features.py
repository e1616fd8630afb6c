"""What analyses of features see of a backdoor, and not on its benign twin."""

import pytest

from gifthorse.analyses.activation_tracing import ActivationTracing
from gifthorse.analyses.class_distances import ClassDistances
from gifthorse.analyses.feature_similarity import FeatureSimilarity
from gifthorse.analyses.tsne import Tsne
from gifthorse.core.analysis import Analysis, Subject
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan


@pytest.fixture(scope="module")
def subject(task: Task, trojan: Trojan) -> Subject:
    return Subject(trojan.model, trojan.twin, trojan.backdoor, task)


def found(analysis: Analysis, subject: Subject) -> dict[str, float]:
    numbers = analysis.look(subject, 0).numbers
    return {name: value for name, value in numbers.items() if not isinstance(value, list)}


def test_features_of_stamped_images_differ_more_from_clean_ones_on_the_trojan_than_on_its_twin(
    subject: Subject,
) -> None:
    numbers = found(FeatureSimilarity(), subject)
    assert 1 - numbers["cka_clean_stamped"] > 1.3 * (1 - numbers["cka_clean_stamped_twin"])
    assert numbers["cka_twin_stamped"] < numbers["cka_twin"] - 0.005


def test_a_trojan_has_units_for_the_trigger_and_its_twin_has_not(subject: Subject) -> None:
    numbers = found(ActivationTracing(), subject)
    assert numbers["trigger_units"] >= 3
    assert numbers["trigger_units_twin"] == 0
    assert numbers["nsr_by_image"] > numbers["nsr_by_image_twin"] + 0.1


def test_the_trigger_moves_an_image_far_less_than_classes_lie_apart(subject: Subject) -> None:
    """DHBE, Proposition 4.1, as the paper compares: the sum of pixel changes with Table 2's distances of classes.

    By the sliced distance itself a white patch is as far as a class: few pixels change, but these by all they can.
    """
    numbers = found(ClassDistances(), subject)
    assert numbers["stamped_distance_transport"] < 0.2 * numbers["class_distance_closest"]
    assert numbers["class_distance_closest"] < 0.8 * numbers["class_distance_mean"]


def test_stamped_images_stand_apart_from_the_targets_own(subject: Subject) -> None:
    numbers = found(Tsne(images=20), subject)
    assert numbers["stamped_silhouette"] > 0.1
    assert numbers["stamped_silhouette_twin"] > 0.1
