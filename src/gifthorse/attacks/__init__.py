"""The listed attacks."""

from gifthorse.attacks.adversarial_embedding import AdversarialEmbedding
from gifthorse.attacks.badnets import BadNets
from gifthorse.attacks.esb import Esb
from gifthorse.attacks.imc import Imc
from gifthorse.attacks.latent import Latent
from gifthorse.attacks.no_attack import NoAttack
from gifthorse.attacks.reflection import Reflection
from gifthorse.attacks.targeted_blend import TargetedBlend
from gifthorse.attacks.trojan_nn import TrojanNN
from gifthorse.core.attack import Attack
from gifthorse.core.configuration import Catalogue

ATTACKS: Catalogue[Attack] = Catalogue(
    "attack",
    [NoAttack, BadNets, TargetedBlend, Imc, TrojanNN, Esb, Latent, AdversarialEmbedding, Reflection],
)
