"""Measure this machine's cards and the links between them, as `danlu plan` wants to know them.

example:
  danlu probe --out fleet.yaml
  danlu probe --share mine.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `danlu probe`."""
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the fleet as YAML, for fleet.path of a run")
    parser.add_argument("--share", type=Path, metavar="FILE", help="the same without any name, to be published")
    parser.add_argument("--full", action="store_true", help="more sizes: about a minute instead of ten seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the main figures as one flat JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure, show a table, write what was asked for."""
    from danlu.cli import output
    from danlu.cli.config import parse_overrides
    from danlu.fleet import share, text
    from danlu.fleet.probe import probe

    parse_overrides(args.overrides)
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
        output.write_text(args.share, text.dumps(share.anonymous(fleet)))
        print(f"\nwritten to {args.share}: models, rates, memory and links; no names of hosts or cards. Read it first.")
    best = fleet.cards[0]
    output.write_json(args.json, {
        "cards": [card.name for card in fleet.cards], "probe.flops_fp32": best.flops["fp32"],
        "probe.mem_bw": best.mem_bw, "probe.rates": len(best.rates),
        "probe.mem_bytes": sum(card.mem_bytes for card in fleet.cards),
        "probe.link_latency_s": fleet.links[0].latency_s if fleet.links else None,
        "probe.link_bandwidth": fleet.links[0].bandwidth if fleet.links else None,
    })  # fmt: skip
    return 0
