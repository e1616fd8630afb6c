"""The triggers that can be saved and read back, by name."""

from gifthorse.core.trigger import Trigger
from gifthorse.triggers.generated_patch import GeneratedPatch
from gifthorse.triggers.low_bits import LowBits
from gifthorse.triggers.moving_patch import MovingPatch
from gifthorse.triggers.noise_patch import NoisePatch
from gifthorse.triggers.patch import Patch
from gifthorse.triggers.perturbation import Perturbation
from gifthorse.triggers.reflection import Reflection

TRIGGERS: dict[str, type[Trigger]] = {
    trigger.name: trigger
    for trigger in (Patch, MovingPatch, NoisePatch, GeneratedPatch, Perturbation, LowBits, Reflection)
}
"""Another is one line, from anywhere: ``TRIGGERS[MyTrigger.name] = MyTrigger``; it is read back by its name."""
