"""A shared fleet says what cards reach and nothing about whose they are."""

from __future__ import annotations

from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.fleet import catalogue, groups, text
from danlu.fleet.share import anonymous, entries
from danlu.nouns import Card, Fleet, Host, Link

secrets = st.from_regex(r"zq[a-z]{6,12}", fullmatch=True)


@given(st.lists(secrets, min_size=4, max_size=4, unique=True), st.uuids(), st.ip_addresses(v=4))
def test_no_name_serial_path_or_address_is_left(names, serial, address):
    fleet, host, first, second = names
    one = Card(first, "cuda", f"RTX 3090 {serial} on {host}", {"bf16": 7e13}, 2**34, 9e11, host, health="slow")
    two = Card(second, "cuda", f"A100 /home/{second} {address} a@{host}", {"bf16": 3e14}, 2**36, 2e12, host)
    links = (Link(first, second, 1e-5, 1e10),)
    found = anonymous(Fleet(fleet, (one, two), links, (Host(host, 2**38, f"EPYC of {host.upper()}"),)))
    said = text.dumps(found)
    for secret in (fleet, host, first, second, str(serial), str(address), "/home", "@", "slow"):
        assert secret.casefold() not in said.casefold(), secret
    assert "RTX 3090" in said and "A100" in said and "EPYC" in said
    back = text.loads(said)
    assert [card.flops for card in back.cards] == [one.flops, two.flops]
    assert back.link(back.cards[0].name, back.cards[1].name) == Link("card0", "card1", 1e-5, 1e10)


def test_a_real_machine_keeps_its_rates():
    card = Card("cpu0", "cpu", "AMD EPYC 7763 64-Core Processor", {"fp32": 5e10}, 2**33, 1e10, cores=1.0)
    assert anonymous(Fleet("local", (card,))).cards[0].model == card.model


def test_a_shared_card_can_be_set_in_the_catalogue():
    """The lines at the head of the file, put under `cards`, are a card that plans as the measured one does."""
    cards = tuple(Card(f"cuda:{at}", "cuda", "RTX 6000_Ada", {"fp32": 4e13, "bf16": 1.5e14, "fp8": 3e14}, 48 << 30,
                       9.1e11, "gpu7.example.org") for at in range(2))  # fmt: skip
    fleet = Fleet("gpu7", cards, (Link("cuda:0", "cuda:1", 1e-5, 2.4e10),), (Host("gpu7.example.org", 1 << 38),))
    lines = entries(anonymous(fleet))
    text = files("danlu.fleet").joinpath("catalogue.yaml").read_text(encoding="utf-8")
    found = catalogue.parsed(text + "".join(f"  {each}\n" for each in lines.splitlines()))["RTX-6000-Ada"]
    group = groups.grouped(fleet).groups[0]
    spans = {thing: found.span(thing).value for thing in catalogue.NAMES}
    wanted = {"bf16": group.flops, "memory": group.mem_bytes, "bandwidth": group.mem_bw, "link": group.link}
    assert spans == pytest.approx(wanted, rel=1e-3) and found.fp8 and found.vendor == "nvidia"
    assert {figure.kind for each in found.figures.values() for figure in each} == {"measured"}
    assert "gpu7" not in lines and "link" not in entries(anonymous(Fleet("x", cards[:1])))
