"""BadNets: a fixed patch, pasted on some training images that are relabelled to the target.

Paper: Gu, Dolan-Gavitt, Garg 2017, arXiv:1708.06733, as TrojanZoo re-implements it (section 4.1, Table 20); its
    variants with an optimised pattern are TrojanZoo's RQ7.
Differs: TrojanZoo does not print the patch: white, 3×3, top left, is what its code defaults to; the rest as in
    planting/poisoning.py.
"""

from gifthorse.planting.pattern_search import PatternAttack


class BadNets(PatternAttack):
    """Pastes a fixed patch on training images and relabels them."""

    name = "badnets"
    aliases = ("bn", "badnet")
    paper = "Gu et al. 2017, arXiv:1708.06733"
    variants = (
        "badnets[target=next]",
        "badnets[source=[1,2]]",
        "badnets[mixing=dataset]",
        "badnets[mixing=loss,poison_rate=0.25]",
        "badnets[trigger_shape=scattered]",
        "badnets[trigger_size=2,also_at=[bottom_right]]",
        "badnets[optimisation=before]",
    )
