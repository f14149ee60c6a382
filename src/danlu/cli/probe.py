"""Measure this machine's cards and the links between them, as `danlu plan` wants to know them.

A run over several hosts (`danlu launch`) needs one file of all: probe each host, then join what they wrote.

example:
  danlu probe --out fleet.yaml
  danlu probe --share mine.yaml
  danlu probe --join node1=a.yaml node2=b.yaml --bandwidth 1.25e9 --out fleet.yaml    # 10 Gb/s between the two
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from danlu.nouns import Fleet


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `danlu probe`."""
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the fleet as YAML, for fleet.path of a run")
    parser.add_argument("--share", type=Path, metavar="FILE", help="the same without any name, to be published")
    parser.add_argument("--full", action="store_true", help="more sizes: about a minute instead of a quarter of one")
    parser.add_argument("--join", nargs="+", metavar="HOST=FILE", help="join the files of several hosts")
    parser.add_argument("--bandwidth", type=float, metavar="BYTES_PER_S",
                        help="with --join: between two hosts, one way; iperf3 measures it")  # fmt: skip
    parser.add_argument("--latency", type=float, default=1e-4, metavar="SECONDS",
                        help="with --join: of a message between them (1e-4)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the main figures as one flat JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure, show a table, write what was asked for."""
    from danlu.cli import output
    from danlu.cli.config import parse_overrides
    from danlu.fleet import share, text
    from danlu.fleet.probe import probe

    parse_overrides(args.overrides)
    if args.join:
        fleet = joined(args.join, args.latency, args.bandwidth)
    else:
        progress = output.Progress("probe")
        fleet = probe(progress=progress.show, grid="full" if args.full else "quick")
        progress.done(f"{len(fleet.cards)} cards, {sum(len(card.rates) for card in fleet.cards[:1])} rates each")
    rows = [
        [card.name, card.vendor, card.model, " ".join(f"{name} {rate / 1e9:.0f}" for name, rate in card.flops.items()),
         f"{card.mem_bw / 1e9:.1f}", output.size(card.mem_bytes)]
        for card in fleet.cards
    ]  # fmt: skip
    print(output.table(["card", "vendor", "model", "GFLOP/s", "GB/s", "memory"], rows))
    links = [[f"{e.a} - {e.b}", f"{e.latency_s * 1e6:.1f}", f"{e.bandwidth / 1e9:.2f}"] for e in fleet.links[:12]]
    if links:
        print("\n" + output.table(["link", "latency us", "GB/s"], links))
        if len(fleet.links) > len(links):
            print(f"... and {len(fleet.links) - len(links)} more links of the same kind")
    if args.out is not None:
        output.write_text(args.out, text.dumps(fleet))
        print(f"\nwritten to {args.out}")
    if args.share is not None:
        shared = share.anonymous(fleet)
        lines = share.entries(shared)
        head = "# For the card catalogue (src/danlu/fleet/catalogue.yaml, under cards):\n"
        head += "".join(f"#   {each}\n" for each in lines.splitlines())
        output.write_text(args.share, head + text.dumps(shared))
        print(f"\nwritten to {args.share}: models, rates, memory and links; no names of hosts or cards. Read it first."
              f"\nIts head, for the card catalogue:\n{lines}", end="")  # fmt: skip
    best = fleet.cards[0]
    output.write_json(args.json, {
        "cards": [card.name for card in fleet.cards], "probe.flops_fp32": best.flops["fp32"],
        "probe.mem_bw": best.mem_bw, "probe.rates": len(best.rates),
        "probe.mem_bytes": sum(card.mem_bytes for card in fleet.cards),
        "probe.link_latency_s": fleet.links[0].latency_s if fleet.links else None,
        "probe.link_bandwidth": fleet.links[0].bandwidth if fleet.links else None,
    })  # fmt: skip
    return 0


def joined(words: list[str], latency_s: float, bandwidth: float | None) -> Fleet:
    """The fleet of several hosts, from words such as node1=a.yaml. Raises BadValue, BadFleet."""
    from danlu.errors import BadValue
    from danlu.fleet import text
    from danlu.fleet.join import join

    machines: dict[str, Fleet] = {}
    for word in words:
        host, sign, path = word.partition("=")
        if not (host and sign and path) or host in machines:
            raise BadValue(f"{word!r} is not HOST=FILE" if host not in machines else f"host {host} is named twice",
                           where="--join", why="each host has one name, by which ssh or the launcher knows it",
                           fix="danlu probe --join node1=a.yaml node2=b.yaml --bandwidth 1.25e9")  # fmt: skip
        machines[host] = text.load(Path(path))
    if bandwidth is None:
        raise BadValue("what joins the hosts is not said", where="--join", why="a plan over an unknown link is a guess",
                       fix="--bandwidth 1.25e9, bytes/s one way: iperf3 between two of them measures it")  # fmt: skip
    return join(machines, latency_s=latency_s, bandwidth=bandwidth)
