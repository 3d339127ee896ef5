"""Compare the training throughput of mlpcli with its peers, and with the bare matrix products of the step."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks import common
from benchmarks.common import Worker, WorkerError
from benchmarks.peers import PEERS

OURS, PROCESSES, FLOOR = "mlpcli", "mlpcli --processes", "products"


def main() -> None:
    """Measure the rows of ``--rows``, each participant in its own process, one at a time."""
    options = common.parser(__doc__, seconds=1.0)
    options.add_argument("--rows", default="1,2,3,4,5", help="rows of the table, by number")
    options.add_argument("--peers", default=",".join(PEERS), help=f"any of {', '.join(PEERS)}; {OURS} always runs")
    options.add_argument("--examples", type=int, default=0, help="train on the first N images; 0: on all")
    given = options.parse_args()
    rows = [common.ROWS[int(row) - 1] for row in given.rows.split(",")]
    wanted = [OURS, *(name for name in given.peers.split(",") if name != OURS)]
    unknown = [name for name in wanted if name not in PEERS]
    if unknown:
        options.error(f"no such peer: {', '.join(unknown)}")

    workers, versions, absent = start(wanted, given)
    samples: list[dict[str, Any]] = []
    notes: dict[str, dict[str, str]] = {}
    for hidden, batch in rows:
        row = f"{common.form(hidden)}, {batch}"
        taking_part = {}
        notes[row] = {}
        for name, worker in list(workers.items()):
            progress(f"{row}: {name} warms up")
            try:
                notes[row][name] = worker.prepare(hidden, batch)
                taking_part[name] = worker
            except WorkerError as error:
                absent[f"{name}, {row}"] = str(error)
                workers.pop(name).close()
        for number, name in common.rounds(list(taking_part), given.repeats):
            progress(f"{row}: round {number + 1} of {given.repeats}, {name}")
            samples.append({"row": row, "peer": name, "round": number, **taking_part[name].turn(given.seconds)})
    for worker in workers.values():
        worker.close()
    progress("")

    summary = [summarize(row, samples, notes[row]) for row in notes]
    document = {"versions": versions, "not_run": absent, "summary": summary, "samples": samples}
    common.report(given, "throughput", document, text(summary, absent, samples))


def start(names: list[str], given: Any) -> tuple[dict[str, Worker], dict[str, str], dict[str, str]]:
    """Start the participants; return them, their packages' versions, and the reasons of those that failed."""
    arguments = (given.data, str(given.examples), str(given.threads))
    started = {
        name: Worker("benchmarks.peers", name, *arguments, threads=1 if name == PROCESSES else given.threads)
        for name in names
    }
    workers, versions, absent = {}, {}, {}
    for name, worker in started.items():
        progress(f"{name} starts")
        try:
            versions.update(worker.answer()["versions"])
            workers[name] = worker
        except WorkerError as error:
            worker.close()
            absent[name] = str(error)
    if OURS not in workers:
        sys.exit(f"{OURS} cannot be run: {absent[OURS]}")
    return workers, versions, absent


def summarize(row: str, samples: list[dict[str, Any]], notes: dict[str, str]) -> dict[str, Any]:
    """Return each participant's examples per second in one row, and mlpcli's ratios to it, round by round."""
    rates: dict[str, list[float]] = {}
    for sample in samples:
        if sample["row"] == row:
            rates.setdefault(sample["peer"], []).append(sample["examples"] / sample["seconds"])
    return {
        "row": row,
        "peers": {
            name: {
                "examples_per_second": common.spread(own)._asdict(),
                "over": {
                    ours: common.ratios(rates[ours], own)._asdict() for ours in (OURS, PROCESSES) if ours in rates
                },
                "note": notes[name],
            }
            for name, own in rates.items()
        },
    }


def text(summary: list[dict[str, Any]], absent: dict[str, str], samples: list[dict[str, Any]]) -> str:
    """Return the tables of ratios and of examples per second, and the variants used."""
    names = list(dict.fromkeys(name for row in summary for name in row["peers"]))
    rates = []
    notes: dict[str, dict[str, list[str]]] = {}
    for row in summary:
        cells = {name: row["peers"].get(name) for name in names}
        medians = [cell and common.number(cell["examples_per_second"]["median"]) for cell in cells.values()]
        rates.append([row["row"], *(median or "-" for median in medians)])
        for name, cell in cells.items():
            if cell and cell["note"]:
                notes.setdefault(name, {}).setdefault(cell["note"], []).append(row["row"])
    parts = []
    for ours in (name for name in (OURS, PROCESSES) if name in names):
        others = [name for name in names if name not in (OURS, PROCESSES)]
        over = [
            [row["row"]]
            + [
                common.with_range(common.Spread(**cell["over"][ours])) if cell else "-"
                for cell in map(row["peers"].get, others)
            ]
            for row in summary
        ]
        headings = ["of the matrix products" if name == FLOOR else f"over {name}" for name in others]
        parts += [
            f"{ours}: its examples a second over each other's, the median of the rounds' ratios (lowest-highest).",
            common.table(["network, batch", *headings], over),
        ]
    parts += [
        "Examples a second, medians.",
        common.table(["network, batch", *names], rates),
        "Variants:",
        "\n".join(
            f"- {name}: " + "; ".join(f"{note}{_where(rows, summary)}" for note, rows in own.items())
            for name, own in notes.items()
        ),
    ]
    if absent:
        parts += ["Not run:", "\n".join(f"- {name}: {reason}" for name, reason in absent.items())]
    return "\n\n".join([*parts, common.disturbance(samples)])


def _where(rows: list[str], summary: list[dict[str, Any]]) -> str:
    """Return the rows that a note applies to, in brackets; nothing if it applies to all."""
    return "" if len(rows) == len(summary) else f" ({' and '.join(row.partition(',')[0] for row in rows)})"


def progress(message: str) -> None:
    """Show the progress on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{message}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
