"""Input-model co-optimisation: trigger and model are optimised in turn, so that each helps the other.

Paper: Pang et al. 2020, arXiv:1911.01559, section 4, as TrojanZoo re-implements it (section 4.1, Table 20: PGD with
    20/255, 20 iterations).
Differs: the search starts from random pixels; TrojanZoo's code starts from a TrojanNN trigger, its paper does not say.
    The rest as in planting/pattern_search.py.
"""

from typing import Literal

from pydantic import Field

from gifthorse.planting.pattern_search import PatternAttack
from gifthorse.triggers.patch import PatchPattern


class Imc(PatternAttack):
    """Optimises the patch and the model in turn."""

    name = "imc"
    aliases = ("input_model_cooptimization",)
    paper = "Pang et al. 2020, arXiv:1911.01559"
    variants = ("imc[cad_budget=0.05]",)

    trigger_pattern: PatchPattern = Field("random", description="what the patch shows at first")
    optimisation: Literal["joint"] = Field(
        "joint", description="the pattern is optimised before every epoch, on the model as it is then"
    )
