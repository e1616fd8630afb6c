"""What every attack, defense and analysis promises: the same questions for those of gifthorse and for yours.

    @pytest.mark.parametrize("promise", promises_of(MyDefense()), ids=lambda promise: promise.name)
    def test_keeps_its_promises(promise):
        promise()

``gifthorse check`` asks them on the command line.
"""

from gifthorse.contracts.analyses import analysis_promises
from gifthorse.contracts.attacks import attack_promises
from gifthorse.contracts.configurations import configuration_promises
from gifthorse.contracts.defenses import defense_promises
from gifthorse.contracts.promise import Promise
from gifthorse.core.analysis import Analysis
from gifthorse.core.attack import Attack
from gifthorse.core.configuration import Configuration
from gifthorse.core.defense import Defense


def promises_of(method: Configuration) -> list[Promise]:
    """Return the promises of a method, to be called; most run it on tiny worlds of noise."""
    promises = configuration_promises(method)
    if isinstance(method, Attack):
        promises += attack_promises(method)
    if isinstance(method, Defense):
        promises += defense_promises(method)
    if isinstance(method, Analysis):
        promises += analysis_promises(method)
    return promises
