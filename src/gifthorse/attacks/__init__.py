"""The listed attacks."""

from gifthorse.attacks.data.badnets import BadNets
from gifthorse.attacks.data.blended import Blended
from gifthorse.attacks.data.invisible import Invisible
from gifthorse.attacks.data.label_consistent import LabelConsistent
from gifthorse.attacks.data.random_backdoor import RandomBackdoor
from gifthorse.attacks.data.reflection import Reflection
from gifthorse.attacks.data.refool import Refool
from gifthorse.attacks.data.targeted_blend import TargetedBlend
from gifthorse.attacks.data.trojan_nn import TrojanNN
from gifthorse.attacks.model.esb import Esb
from gifthorse.attacks.no_attack import NoAttack
from gifthorse.attacks.training.adversarial_embedding import AdversarialEmbedding
from gifthorse.attacks.training.ban import Ban
from gifthorse.attacks.training.cban import CBan
from gifthorse.attacks.training.enhanced import Enhanced
from gifthorse.attacks.training.imc import Imc
from gifthorse.attacks.training.latent import Latent
from gifthorse.core.attack import Attack
from gifthorse.core.configuration import Catalogue

ATTACKS: Catalogue[Attack] = Catalogue(
    "attack",
    [
        NoAttack,
        BadNets,
        TargetedBlend,
        Imc,
        TrojanNN,
        Esb,
        Latent,
        AdversarialEmbedding,
        Reflection,
        Refool,
        RandomBackdoor,
        Ban,
        CBan,
        LabelConsistent,
        Blended,
        Invisible,
        Enhanced,
    ],
)
