"""Named generators from one seed."""

import hashlib

import torch

from tessera.core.seeding import derive, forked, generator


def test_derive_is_half_of_a_blake2b_digest_of_the_seed_and_the_names():
    text = b"(7, ('rollout', 3))"
    expected = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") // 2
    assert derive(7, "rollout", 3) == expected
    assert 0 <= derive(7, "rollout", 3) < 2**63


def test_derive_never_changes():
    # A resumed run draws what it drew before an upgrade: this value is pinned.
    assert derive(0, "selection") == 5676481845670908887


def test_every_part_of_the_name_matters():
    seeds = [derive(0), derive(1), derive(0, "a"), derive(0, "a", "b"), derive(0, "ab"), derive(0, 1), derive(0, "1")]
    assert len(set(seeds)) == len(seeds)


def test_a_stream_depends_on_its_own_name_alone():
    first = torch.rand(4, generator=generator(5, "selection", 2))
    torch.rand(100)  # the global generator, or another stream, moves nothing
    torch.rand(100, generator=generator(5, "rollout", 2))
    assert torch.equal(first, torch.rand(4, generator=generator(5, "selection", 2)))
    assert not torch.equal(first, torch.rand(4, generator=generator(5, "selection", 3)))


def test_a_generator_sits_on_the_device_it_was_asked_for():
    assert generator(0, "x").device.type == "cpu"
    assert generator(0, "x", device=torch.device("cpu")).device.type == "cpu"


def test_a_fork_touches_the_generators_of_the_cpu_and_of_one_device(monkeypatch):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with forked(torch.device("cpu")):
        torch.rand(7)
    assert torch.equal(torch.rand(2), expected)
    asked = []
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices, device_type: asked.append((devices, device_type)))
    forked(torch.device("cuda", 1))  # of a machine with more than one, whose others belong to other processes
    assert asked == [([torch.device("cuda", 1)], "cuda")]
