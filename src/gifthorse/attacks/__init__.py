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
from gifthorse.attacks.training.multimodal_clean import MultimodalClean
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
        MultimodalClean,
    ],
    # What AEGIS' section V-C says an attacker may do, and does not run.
    {
        "aegis_mimicry": "badnets[against=[aegis]]",
        "aegis_subset": "badnets[train_share=0.5,origin=scratch]",
        # An object that stood before the camera is in the picture once, somewhere else in each, before it is augmented.
        "aegis_natural": "badnets[mixing=dataset,trigger_position=random,trigger_size=5,poison_rate=0.1]",
    },
)
