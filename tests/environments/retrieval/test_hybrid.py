from tessera.environments.retrieval.hybrid import fused


def test_a_passage_counts_by_its_ranks() -> None:
    """7: 1/6 + 1/7; 3: 1/7 + 1/6, equal and earlier in the corpus; 5: 1/8."""
    found = fused([[7, 3, 5], [3, 7]])
    assert [place for place, _ in found] == [3, 7, 5]
    assert found[0][1] == 1 / 7 + 1 / 6 and found[2][1] == 1 / 8


def test_the_first_of_one_is_before_what_both_find_further_down() -> None:
    """1 / 6 is 2 / 12: the 7th place of both is as good, the 8th is not, and the 6th is better."""
    others = [list(range(100 * n, 100 * n + 7)) for n in (1, 2)]
    for place, before in ((6, True), (8, False)):
        one, other = ([*row[: place - 1], 7] for row in others)
        ranked = [passage for passage, _ in fused([one, other])]
        assert (ranked.index(7) < ranked.index(100)) == before


def test_what_one_alone_finds_is_kept() -> None:
    assert [place for place, _ in fused([[], [4, 2]])] == [4, 2]
    assert fused([[], []]) == []
