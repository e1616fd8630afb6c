"""Every definition once: numbers from tensors, knowing nothing of attacks or defenses."""

from typing import Self

import torch
from torch import Tensor

MASK_SUPPORT = 0.1
"""A soft mask counts as non-zero above this, by our choice: optimised masks are never exactly zero."""


class Counted(float):
    """A share or mean that knows how many samples it is of, ``n``; what is computed with it is a plain number."""

    n: int

    def __new__(cls, value: float | Tensor, n: int) -> Self:
        """Return the value as a float, with its count."""
        number = super().__new__(cls, value)
        number.n = n
        return number


def share(flags: Tensor) -> Counted:
    """Return the share of ``flags bool (N,)`` that are set; NaN where there is none."""
    return Counted(flags.float().mean(), len(flags))


def accuracy(logits: Tensor, labels: Tensor) -> Counted:
    """Return the share of ``logits (N, K)`` whose largest entry is at ``labels (N,)``; NaN for an empty set."""
    return share(logits.argmax(1) == labels)


def constant_accuracy(labels: Tensor) -> Counted:
    """Return the accuracy of always naming the most frequent of ``labels (N,)``; NaN for an empty set."""
    return Counted(labels.bincount().max() / len(labels) if len(labels) else float("nan"), len(labels))


def attack_success_rate(logits: Tensor, labels: Tensor, targets: Tensor) -> Counted:
    """ASR, TrojanZoo equation 3: share of stamped images that get their target.

    ``logits (N, K)`` are of stamped images with true ``labels (N,)`` and wanted ``targets (N,)``; images whose true
    class is the target already are left out, or every model would score their share for free.
    """
    tried = labels != targets
    return accuracy(logits[tried], targets[tried])


def restricted_success_rate(logits: Tensor, clean: Tensor, labels: Tensor, targets: Tensor) -> Counted:
    """ASR, DHBE section 5.1.4: :func:`attack_success_rate` over images that are right without a trigger.

    ``clean (N, K)`` are the same model's logits of the images as they are.
    """
    right = clean.argmax(1) == labels
    return attack_success_rate(logits[right], labels[right], targets[right])


def confidence(logits: Tensor, labels: Tensor) -> Counted:
    """CCC, TrojanZoo section 4.2: mean softmax probability at ``labels (N,)`` of ``logits (N, K)``."""
    return Counted(logits.softmax(1).gather(1, labels.unsqueeze(1)).mean(), len(labels))


def trojan_confidence(logits: Tensor, labels: Tensor, targets: Tensor) -> Counted:
    """TMC, TrojanZoo section 4.2: :func:`confidence` in the target over the successful trials; NaN if none."""
    won = (labels != targets) & (logits.argmax(1) == targets)
    return confidence(logits[won], targets[won])


def auroc(negative: Tensor, positive: Tensor) -> Counted:
    """Return the chance that a positive score exceeds a negative one, ties counting half; NaN if either is empty."""
    count = len(negative) + len(positive)
    if len(negative) == 0 or len(positive) == 0:
        return Counted(float("nan"), count)
    from sklearn.metrics import roc_auc_score

    truth = torch.cat([torch.zeros(len(negative)), torch.ones(len(positive))])
    return Counted(roc_auc_score(truth.numpy(), torch.cat([negative, positive]).double().cpu().numpy()), count)


def tpr_at_fpr(negative: Tensor, positive: Tensor, fpr: float) -> float:
    """Return the share of positive scores above :func:`threshold_at_fpr`; NaN if either side is empty."""
    if len(negative) == 0 or len(positive) == 0:
        return float("nan")
    return float((positive > threshold_at_fpr(negative, fpr)).double().mean())


def threshold_at_fpr(negative: Tensor, fpr: float) -> Tensor:
    """Return the threshold ``(...)`` that at most ``fpr`` of the scores ``negative (..., N)`` exceed.

    It is one of them: the largest where a single one would be too many.
    """
    ordered, count = negative.sort(-1, descending=True).values, negative.shape[-1]
    return ordered[..., min(int(fpr * count), count - 1)]


def decisions(flagged_negative: Tensor, flagged_positive: Tensor) -> dict[str, Counted]:
    """Return tpr, fpr, precision, recall, f1 and accuracy of a filter (TrojanZoo section 4.4 and Table 23).

    Both arguments are ``bool (N,)``. Precision and F1 are 0 where nothing is flagged, as scikit-learn has it.
    """
    hits, false = int(flagged_positive.sum()), int(flagged_negative.sum())
    negatives, positives = len(flagged_negative), len(flagged_positive)
    flagged, every = hits + false, negatives + positives
    tpr = Counted(hits / positives, positives)
    return {
        "tpr": tpr,
        "fpr": Counted(false / negatives, negatives),
        "precision": Counted(hits / max(flagged, 1), flagged),
        "recall": tpr,
        "f1": Counted(2 * hits / max(flagged + positives, 1), every),
        "accuracy": Counted((hits + negatives - false) / every, every),
    }


def separability(first: Tensor, second: Tensor) -> float:
    """Return how well a fresh linear probe tells two sets of latents ``(N, D)`` apart: 0.5 not at all, 1 perfectly.

    Balanced accuracy of a logistic regression on standardised latents, each tested by a probe fitted to the other four
    fifths (Adversarial-Backdoor-Embedding's question, TrojanZoo section 4.1, put to a judge that took no part in the
    training). NaN where either set has fewer than five.
    """
    if min(len(first), len(second)) < 5:
        return float("nan")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    truth = torch.cat([torch.zeros(len(first)), torch.ones(len(second))]).numpy()
    latents = torch.cat([first, second]).double().cpu().numpy()
    probe = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return float(cross_val_score(probe, latents, truth, cv=folds, scoring="balanced_accuracy").mean())


def mask_norm(mask: Tensor) -> float:
    """MLN, TrojanZoo section 4.4: L1 norm of a mask ``(1, H, W)``."""
    return float(mask.abs().sum())


def mask_jaccard(recovered: Tensor, true: Tensor) -> float:
    """MJS, TrojanZoo equation 6: Jaccard index of the supports of two masks ``(1, H, W)``; 0 if both are empty.

    The paper does not say what belongs to a soft mask's support: above :data:`MASK_SUPPORT` is our choice.
    """
    return jaccard(recovered > MASK_SUPPORT, true > 0)


def mask_jaccard_top(recovered: Tensor, true: Tensor) -> float:
    """MJS as TrojanZoo's code has it: of the recovered mask counts what is above its n-th largest value.

    n is how many pixels of the true mask are not zero. At most n - 1 count, (n - 1) / n is the most there can be, and
    of pixels that are all alike none counts. The values of Table 12 are of this kind, but for DeepInspect's: 8/9, 7/10,
    6/11, ... of a 3×3 trigger. Masks are ``(1, H, W)``; 0 if the true one is empty.
    """
    support = true > 0
    if not support.any():
        return 0.0
    least = recovered.flatten().topk(int(support.sum())).values[-1]
    return jaccard(recovered > least, support)


def jaccard(first: Tensor, second: Tensor) -> float:
    """Return the Jaccard index of two sets, ``bool`` of one shape; 0 if both are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 0.0


def active_units(clean: Tensor, stamped: Tensor, k: int) -> dict[str, Tensor]:
    """Return which units are among the ``k`` most active: for ``both`` kinds of images, for one alone, or for neither.

    ``clean (D,)`` and ``stamped (D,)`` are the units' activities; of equal ones those of lower number count first. The
    flags ``bool (D,)`` are by what reports call them.
    """
    for_clean, for_stamped = (most_active(activity, k) for activity in (clean, stamped))
    return {
        "active in both": for_clean & for_stamped,
        "active in clean images alone": for_clean & ~for_stamped,
        "active in stamped images alone": for_stamped & ~for_clean,
        "active in neither": ~for_clean & ~for_stamped,
    }


def neuron_separation(clean: Tensor, stamped: Tensor, k: int) -> float:
    """NSR, TrojanZoo equation 4: one minus the Jaccard index of the ``k`` most active units of two kinds of images.

    ``clean (D,)`` and ``stamped (D,)`` are the units' activities. 0: the same units; 1: no unit in common.
    """
    return 1 - jaccard(most_active(clean, k), most_active(stamped, k))


def separation_by_image(clean: Tensor, stamped: Tensor, k: int) -> Tensor:
    """Return the NSR ``float (N,)`` of every image by itself, of activities ``(N, D)`` without and with the trigger."""
    for_clean, for_stamped = most_active(clean, k), most_active(stamped, k)
    shared = (for_clean & for_stamped).sum(1)
    return 1 - shared / (for_clean | for_stamped).sum(1).clamp_min(1)


def most_active(activity: Tensor, k: int) -> Tensor:
    """Return the flags ``bool (..., D)`` of the ``k`` largest of ``activity (..., D)``, of equal ones the first."""
    flags = torch.zeros_like(activity, dtype=torch.bool)
    return flags.scatter(-1, activity.argsort(dim=-1, descending=True, stable=True)[..., :k], True)


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Return how alike two representations of the same images are: 0 nothing in common, 1 the same up to a rotation.

    ``first (N, D)`` and ``second (N, E)``; linear centred kernel alignment of Kornblith et al. 2019, arXiv:1905.00414,
    section 3, in its feature-space form ``‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖)`` with Frobenius norms of centred features, so that
    nothing of size N × N is made. NaN where one of them is the same for all images.
    """
    x, y = (each.double() - each.double().mean(0) for each in (first, second))
    scale = torch.linalg.matrix_norm(x.mT @ x) * torch.linalg.matrix_norm(y.mT @ y)
    return min(float(torch.linalg.matrix_norm(y.mT @ x).square() / scale), 1.0) if scale > 0 else float("nan")


def linear_prediction(known: Tensor, answers: Tensor, asked: Tensor) -> Tensor:
    """Return what the linear map from ``known (N, D)`` to ``answers (N, K)`` makes of ``asked (M, D)``: ``(M, K)``.

    Least squares without an intercept; where several maps fit alike, the smallest.
    """
    inputs = known.double()
    gram = torch.linalg.pinv(inputs.mT @ inputs, rtol=1e-10, hermitian=True)
    predicted: Tensor = asked.double() @ (gram @ (inputs.mT @ answers.double()))
    return predicted


def mass_within(maps: Tensor, area: Tensor) -> Counted:
    """Return the mean share of a map's sum that lies in an area: relevance mass accuracy.

    ``maps (N, H, W)`` are from 0; ``area bool (N, H, W)``, or ``(1, H, W)`` for all. What is flat at 0 and what has no
    area does not count; NaN if nothing is left. The term is Arras et al.'s (arXiv:2003.07258).
    """
    total = maps.sum((1, 2))
    counted = (total > 0) & area.flatten(1).any(1)
    shares = (maps * area).sum((1, 2))[counted] / total[counted]
    return Counted(shares.mean(), len(shares))


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Pearson's coefficients ``float64 (...)`` of vectors ``(..., D)``; NaN where one of the two is constant."""
    centred = [values.double() - values.double().mean(-1, keepdim=True) for values in (first, second)]
    product: Tensor = (centred[0] * centred[1]).sum(-1) / (centred[0].norm(dim=-1) * centred[1].norm(dim=-1))
    constant = [(values == values[..., :1]).all(-1) for values in (first, second)]
    return product.clamp(-1, 1).masked_fill(constant[0] | constant[1], torch.nan)
