from tessera.environments.retrieval.hybrid import fused


def test_a_passage_counts_by_its_ranks() -> None:
    """7: 1/61 + 1/62; 3: 1/62 + 1/61, equal and earlier in the corpus; 5: 1/63."""
    found = fused([[7, 3, 5], [3, 7]])
    assert [place for place, _ in found] == [3, 7, 5]
    assert found[0][1] == 1 / 62 + 1 / 61 and found[2][1] == 1 / 63


def test_what_one_alone_finds_is_kept() -> None:
    assert [place for place, _ in fused([[], [4, 2]])] == [4, 2]
    assert fused([[], []]) == []
