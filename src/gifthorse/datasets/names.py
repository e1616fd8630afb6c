"""What folders and files of images are called: the parts of a data set, what lies beside them, and in which order."""

import re
from collections.abc import Iterable, Sequence

TRAINING, TEST, VALIDATION = "training", "test", "validation"
_SPELLINGS = {
    TRAINING: "train training trains trainset trainingset traindata trainingdata trn learn learning learnset",
    TEST: "test testing tests testset testingset testdata testingdata tst eval evaluation evalset evaluationset",
    VALIDATION: "val valid validation validate vals valset validset validationset valdata dev devset devel development",
}
ROLES = {word: role for role, words in _SPELLINGS.items() for word in words.split()}
"""What a part is for, by the words that it may be called, those to prefer first."""
FILLERS = frozenset(
    [
        *("set", "sets", "data", "dataset", "split", "part", "folder", "final", "full"),
        *("image", "images", "img", "imgs", "photos", "pictures"),
    ]
)
"""Words beside these that say nothing."""
_BESIDE = frozenset(
    [
        *("meta", "metadata", "annotation", "annotations", "anno", "label", "labels", "mask", "masks"),
        *("box", "boxes", "bbox", "bboxes", "unlabeled", "unlabelled", "unsup", "unsupervised", "extra", "extras"),
        *("sample", "samples", "submission", "pred", "predict", "prediction", "predictions"),
        *("devkit", "doc", "docs", "readme", "csv", "code", "scripts"),
    ]
)
_MOST = 10


def words(name: str) -> list[str]:
    """Return the words of a name, small; numbers are left out.

    >>> words("TestSet"), words("seg_train-01"), words("Final_Test")
    (['test', 'set'], ['seg', 'train'], ['final', 'test'])
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word.casefold() for word in re.findall(r"[^\W\d_]+", apart)]


def roles_in(name: str) -> set[str]:
    """Return what the words of a name stand for."""
    return {ROLES[word] for word in words(name) if word in ROLES}


def parts_among(names: Iterable[str]) -> dict[str, str]:
    """Return those of the names that are a part's, and what each part is for, those to prefer first.

    A word that all of them share says nothing, where one of them is for training.

    >>> parts_among(["seg_pred", "seg_test", "seg_train"]), parts_among(["bullet_train", "car", "Test"])
    ({'seg_train': 'training', 'seg_test': 'test'}, {'Test': 'test'})
    """
    roles = {name: min(found) for name in names if len(found := roles_in(name)) == 1}
    shared = set.intersection(*(set(words(name)) for name in roles)) if len(set(roles.values())) > 1 else set()
    saying_nothing = FILLERS | ROLES.keys() | (shared if TRAINING in roles.values() else set())
    parts = {name: role for name, role in roles.items() if saying_nothing.issuperset(words(name))}
    return dict(sorted(parts.items(), key=lambda part: (_preference(part[0]), part[0])))


def _preference(name: str) -> int:
    return min(place for place, word in enumerate(ROLES) if word in words(name))


def lies_beside(name: str) -> bool:
    """Tell whether something is called like what lies beside the parts of a data set and is none of them."""
    return not _BESIDE.isdisjoint(words(name))


def natural_order(names: Iterable[str]) -> list[str]:
    """Return names in the order in which people count.

    >>> natural_order(["10", "9", "class_10", "class_2"])
    ['9', '10', 'class_2', 'class_10']
    """

    def key(name: str) -> tuple[list[str | int], str]:
        pieces = re.split(r"([0-9]+)", name)
        return [int(piece) if place % 2 else piece for place, piece in enumerate(pieces)], name

    return sorted(names, key=key)


def enumerated(items: Sequence[str]) -> str:
    """Return items for a message, the first few where they are many.

    >>> enumerated(["cat", "dog"]), enumerated([str(number) for number in range(12)])[-14:]
    ('cat, dog', '9 and 2 others')
    """
    told = ", ".join(items[:_MOST])
    left = len(items) - _MOST
    return told if left <= 0 else f"{told} and {left} other{'s' if left > 1 else ''}"


def quoted(names: Iterable[str]) -> str:
    """Return names in quotes, in natural order, for a message.

    >>> quoted({"10", "9"})
    "'9', '10'"
    """
    return enumerated([f"'{name}'" for name in natural_order(names)])
