"""Seeds by purpose: other words, another seed; the same words, the same seed in every release."""

from hypothesis import given
from hypothesis import strategies as st

from gifthorse.core.seeds import derive

WORDS = st.lists(st.one_of(st.text(st.characters(exclude_characters="\0"), max_size=4), st.integers(0, 99)), max_size=4)


def test_words_are_not_run_together() -> None:
    assert derive(0, "ab", "c") != derive(0, "a", "bc")
    assert derive(1, "23") != derive(12, "3")
    assert derive(1, 2, 3) != derive(1, 23) != derive(12, 3)
    assert derive(0, "reference", 11) != derive(0, "reference", 1, 1)
    assert len({derive(0), derive(0, ""), derive(0, "", ""), derive(0, " ")}) == 4


@given(WORDS, WORDS)
def test_two_purposes_share_a_seed_only_where_they_read_the_same(
    first: list[str | int], second: list[str | int]
) -> None:
    alike = list(map(str, first)) == list(map(str, second))
    assert (derive(7, *first) == derive(7, *second)) == alike


def test_a_seed_is_the_same_in_every_release() -> None:
    """Records of old cells keep their values only while these do."""
    assert derive(0, "batches") == 5026579826942522766
    assert derive(3, "reference", 1) == 1315024934201187334
    assert 0 <= derive(2**70, "any") < 2**63
