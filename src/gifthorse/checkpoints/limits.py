"""How much a checkpoint that nobody vouches for may cost, beyond what its size on disk says."""

from dataclasses import dataclass

SMALL = 16 * 2**20
"""What unpacks to no more bytes than this costs little, however well it was packed."""


@dataclass(frozen=True)
class Limits:
    """What is refused before it is read; no checkpoint that training code writes comes near the defaults."""

    ratio: float = 100
    """How many times its size an archive may unpack to, beyond the first 16 MiB."""
    pickle_bytes: int = 64 * 2**20
    """The longest pickle; the tensors' own numbers are kept elsewhere."""
    operations: int = 2_000_000
    """The steps of a pickle: a tensor takes about 30, each number or name in a list one or two."""
    tensors: int = 100_000
    """The tensors of a state dict, and the members of an archive."""

    def operations_of(self, size: int) -> int:
        """Return how many steps a file of ``size`` bytes may have: one takes a byte, unless it was packed."""
        return min(self.operations, size + 100_000)
