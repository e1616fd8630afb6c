"""The listed attacks."""

from gifthorse.attacks.badnets import BadNets
from gifthorse.attacks.no_attack import NoAttack
from gifthorse.core.attack import Attack
from gifthorse.core.configuration import Catalogue

ATTACKS: Catalogue[Attack] = Catalogue("attack", [NoAttack, BadNets])
