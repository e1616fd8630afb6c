"""Backdoor generating network: a network makes the patterns of noise, and is trained together with the model.

Paper: Dynamic Backdoors (Salem et al. 2020, arXiv:2003.03675), section 3.2; more dissimilar patterns (section 4.4,
    Figure 5c) are output_dropout=0.5, poisoning with a trained network (section 4.8)
    generator_from=FILE,mixing=dataset,poison_rate=0.1.
Differs: nothing beyond planting/generated.py and triggers/generated_patch.py.
"""

from gifthorse.planting.generated import GeneratedAttack


class Ban(GeneratedAttack):
    """Trains a network that makes triggers of noise together with the model."""

    name = "ban"
    aliases = ("backdoor_generating_network",)
    paper = "Salem et al. 2020, arXiv:2003.03675"
    variants = ("ban[target=[0,1,2],trigger_size=3]", "ban[output_dropout=0.5]")
