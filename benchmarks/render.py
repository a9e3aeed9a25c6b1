"""Write docs/benchmarks.md and the drawings beside it from the figures in benchmarks/results/; what was not run is left out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal

import harness
import numpy as np
from graph_search import TARGETS, front
from numpy.typing import NDArray

HEAD = """# Benchmarks

`make bench` runs them all, one script a question, with `LIKEWISE_DATA` set; `python benchmarks/render.py` writes this page from
`benchmarks/results/`. Peers run in the same process order A B A B on the same vectors. Machines are shared and noisy: read
the ratios and the CPU times, not the last digits. Speed is never given without the recall of the same run.
"""
OVERVIEW = "\n![Subset scans, text quality, and CPU a request](benchmarks.png)\n"

DOCS = harness.ROOT / "docs"
LEAST_RECALL = 0.8  # of a drawing
RECALL_TICKS = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)
OWN = "#c2410c"
COLOURS = {  # by the beginning of a name; those that share one differ by their strokes
    "likewise": OWN,
    "rabitqlib": "#6d28d9",
    "glass": "#22c55e",
    "scann": "#ca8a04",
    "faiss-hnsw": "#1d4ed8",
    "faiss-ivf": "#38bdf8",
    "faiss-flat": "#94a3b8",
    "hnswlib": "#0f172a",
    "usearch": "#db2777",
    "vsag": "#0f766e",
    "svs": "#64748b",
    "lorann": "#92400e",
    "qdrant": "#be123c",
    "zvec": "#a3a30d",
}
STROKES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))


def read(name: str) -> dict[str, Any] | None:
    """Return the figures of a benchmark, None where it was not run."""
    path = harness.RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def machine_line(figures: dict[str, Any]) -> str:
    """Say what was measured on."""
    m = figures["machine"]
    return f"\n{m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB, kernels {m['kernels']}, load {m['load']}, commit {m['commit']}.\n"


def table(head: list[str], rows: list[list[object]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n" + "\n".join(lines) + "\n"


def subset_scan(d: dict[str, Any]) -> str:
    """The exact scan of a filtered subset."""
    rows = []
    for share, both in ((key, value) for key, value in d.items() if key.endswith("%")):
        for how in ("warm", "cold"):
            us = {who: both[how][who]["us_per_query"] for who in ("likewise", "faiss", "numpy")}
            ratio = both[how]["likewise"]["times_faster_than_faiss"]
            rows.append(
                [share, how, *(f"{us[w]:,.0f}" for w in us), f"{ratio}x", both[how]["likewise"]["recall_at_10"]]
            )
    text = (
        f"\n## Exact scan of a subset: `subset_scan.py`\n\n{d['n']:,} x {d['dim']}, k {d['k']}, one thread, CPU microseconds a query. "
        "Warm asks one subset again and again, cold a new one each time. The peer is FAISS `IndexFlatIP` with `IDSelectorBitmap`.\n"
    )
    return text + table(["subset", "", "Likewise", "FAISS", "NumPy", "over FAISS", "recall@10"], rows) + machine_line(d)


def text_quality(d: dict[str, Any]) -> str:
    """Same product in another shop."""
    rows: list[list[object]] = []
    held = {"Abt title -> same product at Buy": d["abt_title_to_buy"], **d["description_to_title"]}
    for name, figures in held.items():
        label = name if "->" in name else f"{name}: description -> title"
        for side in ("dense", "sparse", "joined"):
            rows.append([label, side, figures[side]["hit@1"], figures[side]["hit@10"]])
    text = f"\n## Text quality: `text_quality.py`\n\nJoined is {d['alpha']} of the dense cosine and {1 - d['alpha']:.1f} of the sparse one.\n"
    return text + table(["task", "side", "hit@1", "hit@10"], rows) + machine_line(d)


def picture_quality(d: dict[str, Any]) -> str:
    """Phone photo to product."""
    rows: list[list[object]] = []
    for name in ("raw_1280", "fitted_on_gallery", "fitted_on_all_catalogue_pictures"):
        for best in ("best_of_1", "best_of_3"):
            rows.append([name.replace("_", " "), best[-1], d[name][best]["top-1"], d[name][best]["top-10"]])
    text = (
        f"\n## Picture quality: `picture_quality.py`\n\n{d['queries']} phone photos, {d['products']} groceries, {d['gallery']} catalogue "
        "photos; an item's distance is the mean of its nearest photos.\n"
    )
    return text + table(["features", "photos an item", "top-1", "top-10"], rows) + machine_line(d)


CROSS_MODAL_SLICES = {
    "all": "all products",
    "texts_of_several": "texts of several products",
    "texts_of_one": "texts of one product",
}


def cross_modal(d: dict[str, Any]) -> str:
    """Texts to pictures and back."""
    rows: list[list[object]] = []
    for key, label in CROSS_MODAL_SLICES.items():
        for method, found in d["spaces"].items():
            of = found[key]
            both = [
                f"{of[f'{way}_at_1']:.3f} / {of[f'{way}_at_10']:.3f}" for way in ("text_to_picture", "picture_to_text")
            ]
            rows.append([f"{label} ({of['texts']:,} texts, {of['pictures']:,} pictures)", method, *both])
    text = (
        f"\n## Texts and pictures: `cross_modal.py`\n\n{d['products']:,} products, {d['pictures']:,} pictures, {d['different_texts']:,} "
        f"different texts; {d['folds']} folds of products, each asked about by what learned from the others. A text is answered by a "
        "picture of a product with an equal text, a picture by the text of its product. Most clothes of this catalogue have one of 33 "
        "texts (the name of their class), so that class labels answer for them; groceries and outdoor goods have a text of their own.\n\n"
        "![Share of texts answered by their first picture, and of pictures by their first text](cross_modal.png)\n\n"
    )
    return (
        text + table(["asked", "space", "text -> picture @1 / @10", "picture -> text @1 / @10"], rows) + machine_line(d)
    )


def draw_cross_modal(d: dict[str, Any]) -> None:
    """Draw the first answers: a panel a direction, a group of bars a kind of text."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained", sharey=True)
    methods = list(d["spaces"])
    colours = dict(zip(methods, ("#cbd5e1", "#94a3b8", "#64748b", "#2563eb")))
    titles = {
        "text_to_picture": "a text's nearest picture is right",
        "picture_to_text": "a picture's nearest text is right",
    }
    for axis, (way, title) in zip(axes, titles.items()):
        for at, method in enumerate(methods):
            heights = [d["spaces"][method][key][f"{way}_at_1"] for key in CROSS_MODAL_SLICES]
            places = [group + (at - (len(methods) - 1) / 2) * 0.2 for group in range(len(heights))]
            bars = axis.bar(places, heights, 0.18, color=colours[method], label=method)
            axis.bar_label(bars, fmt="%.2f", fontsize=8)
        axis.set(xticks=range(len(CROSS_MODAL_SLICES)), xticklabels=list(CROSS_MODAL_SLICES.values()), ylim=(0, 1.05))
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(methods), frameon=False)
    figure.savefig(DOCS / "cross_modal.png", dpi=110)
    plt.close(figure)


def embedding_speed(d: dict[str, Any]) -> str:
    """Encoders against sentence-transformers."""
    parts = {**{f"text: {k.replace('_', ' ')}": v for k, v in d["texts"].items()}}
    parts |= {k.replace("_", " ") + " px": d[k] for k in d if k.startswith("pictures_")}
    rows = [[n, v["ours_per_s"], v["theirs_per_s"], f"{v['ratio']}x", v["cosine_min"]] for n, v in parts.items()]
    text = f"\n## Embedding: `embedding_speed.py`\n\n{d['threads']} threads, per second; the peer is sentence-transformers' own encode.\n"
    return text + table(["content", "Likewise", "peer", "ratio", "least cosine to torch"], rows) + machine_line(d)


def index_build(d: dict[str, Any]) -> str:
    """Building a version against plain FAISS HNSW."""
    ours, peer = d["likewise"], d["faiss_hnsw_flat"]
    rows: list[list[object]] = [
        ["wall s until searchable", f"{ours['build_s']:.0f}", f"{peer['build_s']:.0f}", d["ratio"]["build_s"]],
        ["index CPU s", f"{ours['index_cpu_s']:.0f}", f"{peer['index_cpu_s']:.0f}", d["ratio"]["index_cpu_s"]],
        [
            "peak memory MiB beside the input",
            f"{ours['peak_mib']:.0f}",
            f"{peer['peak_mib']:.0f}",
            d["ratio"]["peak_mib"],
        ],
    ]
    text = (
        f"\n## Building: `index_build.py`\n\n{d['n']:,} x {d['dim']}, {d['threads']} threads, M 16, efConstruction 200; the peer is "
        "`IndexHNSWFlat`.\n" + table(["", "Likewise", "FAISS", "ratio"], rows)
    )
    return text + (
        f"\nThe default plan is {ours['plan']} with effort {ours['effort']}: recall@10 {ours['recall_at_10']:.4f} on 1,000 unseen queries; "
        f"the version promised {ours['promised_recall']:.4f} (at least {ours['promised_low']:.4f}). Predicted "
        f"{ours['predicted_cpu_s']:.0f} CPU s. Measuring took {ours['measure_s']:.0f} s more.\n" + machine_line(d)
    )


def catalog_memory(d: dict[str, Any]) -> str:
    """Peak memory of catalogue builds."""
    rows: list[list[object]] = [
        [f"{int(k.removeprefix('rows_')):,}", f"{v['peak_mib']:,.0f}", f"{v['wall_s']:.0f}", f"{v['cpu_s']:.0f}"]
        for k, v in d.items()
        if k.startswith("rows_")
    ]
    text = (
        f"\n## Memory of a catalogue build: `catalog_memory.py`\n\nTexts repeat every {d['distinct_texts']:,} rows.\n"
    )
    return text + table(["rows", "peak MiB", "wall s", "CPU s"], rows) + machine_line(d)


def request_cost(d: dict[str, Any]) -> str:
    """CPU and latency a request."""
    rows = [
        [
            r["transport"],
            r["connections"],
            "yes" if r["filtered"] else "no",
            f"{r['server_cpu_us']:.0f}",
            f"{r['null_server_cpu_us']:.0f}",
            f"{r['cpu_ratio_to_null']:.2f}",
            f"{r['p50_ms']:.2f} / {r['p99_ms']:.2f}",
            r["recall_at_10"],
        ]
        for r in d["rows"]
    ]
    text = (
        f"\n## Serving: `request_cost.py`\n\nFind neighbors, {d['n']:,} x {d['dim']}, k {d['k']}, closed loop, generator on the same cores. "
        "Null is the same server over a tiny index.\n"
    )
    head = ["", "connections", "filtered", "CPU us a request", "null", "ratio", "p50 / p99 ms", "recall@10"]
    return text + table(head, rows) + machine_line(d)


def service_peers(d: dict[str, Any]) -> str:
    """A request beside other services."""
    rows = [
        [
            r["service"],
            f"open, {r['rate']:g} a second" if r["rate"] else r["connections"],
            f"{r['requests_per_s']:,.0f}",
            f"{r['server_cpu_us']:,.0f}",
            f"{r['p50_ms']:.2f} / {r['p99_ms']:.2f}",
            f"{r['recall_at_10']:.3f}",
        ]
        for r in d["rows"]
    ]
    text = (
        f"\n## A request beside other services: `service_peers.py`\n\n{d['n']:,} x {d['dim']}, k {d['k']}, each service at the least effort that reaches "
        f"the recall asked for, {d['repeats']} turns, medians; the generator runs on the same cores.\n\n"
        "![CPU a request and median latency, a bar a service](service_peers.png)\n\n"
    )
    head = ["", "connections", "requests a second", "CPU us a request", "p50 / p99 ms", "recall@10"]
    return text + table(head, rows) + machine_line(d)


def draw_service_peers(d: dict[str, Any]) -> None:
    """Bars of CPU a request and of median latency, a group for each number of connections."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    names = list(dict.fromkeys(row["service"] for row in d["rows"]))
    groups = [row for row in d["rows"] if row["service"] == names[0]]
    shades = dict(zip(names, (OWN, "#fdba74", "#64748b", "#cbd5e1")))
    for axis, key, label in ((axes[0], "server_cpu_us", "server CPU us a request"), (axes[1], "p50_ms", "median ms")):
        for place, name in enumerate(names):
            own = [row[key] for row in d["rows"] if row["service"] == name]
            at = [group + (place - len(names) / 2 + 0.5) * 0.2 for group in range(len(groups))]
            axis.bar(at, own, width=0.18, color=shades[name], label=name)
        ticks = [f"open loop\n{g['rate']:g}/s" if g["rate"] else f"{g['connections']} connections" for g in groups]
        axis.set(xticks=range(len(groups)), xticklabels=ticks, ylabel=label, yscale="log")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(DOCS / "service_peers.png", dpi=110)
    plt.close(figure)


def title_of(key: str) -> str:
    """Return a data set's key, `name n x dim metric`, as a heading."""
    name, n, _, dim, metric = key.split()
    return f"{name}, {int(n):,} x {dim}, {metric}"


def over_best(of: dict[str, Any], way: str) -> str:
    """Say how many times faster Likewise is than the fastest library at each recall."""
    told = []
    for target, best in of["best_peer"].get(way, {}).items():
        times = of["times_faster"][way].get(best["peer"], {}).get(target)
        told.append(f"{target} {f'{times}x' if times else 'not reached'} ({best['peer']})")
    return ", ".join(told)


def graph_search(d: dict[str, Any]) -> str:
    """Speed at a recall beside other libraries."""
    targets = [f"{target:.2f}" for target in TARGETS]
    text = (
        "\n## Graph search beside other libraries: `graph_search.py`\n\nQueries a second at a recall@10. Single: a Python call a query, one core, "
        "CPU time. Batch: all queries in one call, wall time. Likewise takes part with memory of its own, as the libraries do, and with its file mapped; "
        "the ratios are those of the first.\n\n![Queries a second by recall, a panel a data set](graph_search.png)\n"
    )
    for key, of in d["data"].items():
        ways = [way for way in ("single", "batch") if of["times_faster"].get(way) is not None]
        rows: list[list[object]] = []
        for name, figures in fastest_first(of["peers"]):
            speeds = [figures[way]["qps_at"][target] for way in ways for target in targets]
            cells = ["-" if speed is None else f"{speed:,}" for speed in speeds]
            version = figures["build"]["version"].split("+")[0]
            rows.append(
                [
                    f"{name} {version}",
                    *cells,
                    figures["build"]["cpu_s"],
                    figures["all_in_memory_mib"],
                    figures["resident_mib"],
                ]
            )
        head = ["", *(f"{way} {target}" for way in ways for target in targets), "build CPU s", "MiB", "MiB touched"]
        text += f"\n### {title_of(key)}\n{table(head, rows)}\nTimes as fast as the fastest library: "
        text += "; ".join(f"{way} {over_best(of, way) or 'none measured'}" for way in ways)
        text += (
            f". {of['queries']:,} queries, {of['repeats']} repeats, {of['threads']} threads in batches and builds.\n"
            + machine_line(of)
        )
    return text


def filtered_search(d: dict[str, Any]) -> str:
    """Speed under filters."""
    text = (
        "\n## Search under a filter: `filtered_search.py`\n\nQueries a second at recall@10 of .95, a Python call a query, one core, CPU time; in brackets "
        "the highest recall where none reached it. Random: rows drawn at random. Near and far: the clusters nearest to the queries and farthest from "
        "them.\n\n![Queries a second by the share of rows that match](filtered_search.png)\n"
    )
    for key, of in d["data"].items():
        names = list(next(iter(of["filters"].values()))["peers"])
        rows: list[list[object]] = []
        for label, under in of["filters"].items():
            told = [under["peers"][name] for name in names]
            rows.append([label, *(f"{t['qps_at']:,}" if t["qps_at"] else f"({t['highest_recall']})" for t in told)])
        text += f"\n### {title_of(key)}, filtered\n{table(['', *names], rows)}{machine_line(of)}"
    return text


def graph_growth(d: dict[str, Any]) -> str:
    """Time a query by size."""
    rows: list[list[object]] = [
        [
            f"{int(n):,}",
            of["us_per_query"] or "-",
            of["single"]["highest_recall"],
            of["build"]["cpu_s"],
            of["all_in_memory_mib"],
        ]
        for n, of in d["sizes"].items()
    ]
    steps = ", ".join(f"{g['times_slower'] or '?'} times from {g['from']:,} to {g['to']:,} rows" for g in d["growth"])
    text = (
        f"\n## Growth: `graph_growth.py`\n\nCPU microseconds a query at recall@10 of {d['recall']}, Likewise alone, {d['data']} vectors x {d['dim']}; "
        f"in turns, the time of a query grew {steps}.\n"
    )
    return text + table(["rows", "us a query", "highest recall", "build CPU s", "MiB"], rows) + machine_line(d)


def scan_bandwidth(d: dict[str, Any]) -> str:
    """Exact scans as a share of the memory's speed."""
    rows: list[list[object]] = [
        [name, s["mib"], f"{s['us_per_query']:,.0f}", s["gb_per_s"], f"{s['share_of_bandwidth']:.0%}"]
        for name, s in d["scans"].items()
    ]
    text = (
        f"\n## Exact scans and the memory: `scan_bandwidth.py`\n\n{d['n']:,} x {d['dim']}, {d['metric']}, one query on one thread. This core loads "
        f"{d['gb_per_s']} GB/s from a buffer of {d['buffer_mib']:,} MiB, the best of {len(d['readers_gb_per_s'])} plain readers. Of a scan only the bytes count "
        "that it cannot do without.\n"
    )
    return text + table(["scan", "MiB", "us a query", "GB/s", "share"], rows) + machine_line(d)


def live_index(d: dict[str, Any]) -> str:
    """What writes cost searches."""
    told = {
        "sealed": ("sealed version", d["recall_sealed"]),
        "live_idle": ("live index without writes", d["recall_sealed"]),
        "under_writes": (f"while {d['under_writes']['upserts_per_s']:,} upserts a second arrive", "-"),
        "with_delta": (f"with {d['delta_share']:.0%} of the datapoints in the delta", d["with_delta"]["recall"]),
    }
    rows: list[list[object]] = [
        [name, f"{d[key]['p50_ratio']:.2f}x", f"{d[key]['p99_ratio']:.2f}x", d[key]["p50_ms"], d[key]["p99_ms"], recall]
        for key, (name, recall) in told.items()
    ]
    single = ", ".join(f"{n:,} a second from {who}" for who, n in d["single_upserts_per_s"].items())
    text = (
        f"\n## Writes beside searches: `live_index.py`\n\n{d['rows']:,} sentence embeddings under a graph, {d['queries_per_s']:g} searches a second one by one from Python, in one "
        f"process with the writes, wall time from when each was due. A write is seen {d['under_writes']['freshness_p50_ms']} ms after its acknowledgement, in 99 of 100 cases "
        f"{d['under_writes']['freshness_p99_ms']} ms. Single durable upserts: {single}.\n"
    )
    return text + table(["", "p50", "p99", "p50 ms", "p99 ms", "recall@10"], rows) + machine_line(d)


def export(d: dict[str, Any]) -> str:
    """The item-to-item table beside bare batch searches."""
    rows: list[list[object]] = []
    for name, of in d["of"].items():
        peer = d["peers"].get(name)
        recall = d["recall"] if peer is None else peer["recall"]
        what = (
            "likewise export, Parquet on disk"
            if peer is None
            else f"{name}, efSearch {peer['ef_search']}, search alone"
        )
        wall, cpu = (float(np.median(of[key])) for key in ("wall_s", "cpu_s"))
        rows.append(
            [
                what,
                f"{recall:.4f}",
                f"{of['items_per_s']:,.0f}",
                f"{wall:.1f}",
                f"{cpu:.1f}",
                f"{of['time_over_ours']:.2f}x",
            ]
        )
    text = (
        f"\n## Item-to-item tables: `export.py`\n\nThe {d['k']} nearest of each of {d['n_items']:,} items on {d['threads']} threads, medians of {len(d['of']['likewise']['wall_s'])} "
        f"rounds in turns. The table takes {d['table_mib']:,.0f} MiB.\n"
    )
    return text + table(["", f"recall@{d['k']}", "items/s", "wall s", "CPU s", "time"], rows) + machine_line(d)


def overload(d: dict[str, Any]) -> str:
    """What is left of goodput when more arrives than can be answered."""
    rows: list[list[object]] = []
    for way, found in d.items():
        if not isinstance(found, dict) or "rows" not in found:
            continue
        for at in found["rows"]:
            n = sum(at["statuses"].values())
            late = 1 - at["n_good"] / max(at["statuses"].get("200", 0), 1)
            refused = f"{at['refusal_p50_ms']:.0f}, {at['refusal_p99_ms']:.0f}"
            share = f"{at['goodput_frac']:.2f}"
            rows.append([way, f"{at['times']}x", share, f"{late:.1%}", f"{at['p99_ms']:.0f}", refused, f"{n:,}"])
    text = (
        f"\n## Overload: `overload.py`\n\nAn open loop offers so many times the peak of a closed one for {d['seconds']:g} s each; a request takes about 5 ms of a core "
        f"and has {1e3 * d['deadline_s']:g} ms. Goodput is answers in time, as a share of the peak.\n\n"
    )
    head = ["", "offered", "goodput", "late", "p99 of answers, ms", "refusals p50, p99 ms", "requests"]
    return text + table(head, rows) + machine_line(d)


def fastest_first(of: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return peers and figures by the speed of single calls at .95, Likewise first."""
    return sorted(of.items(), key=lambda item: (item[0] != "likewise", -(item[1]["single"]["qps_at"]["0.95"] or 0)))


def stretched(recall: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map recalls so that each nine takes about as much room, and 1 has a place."""
    return -np.log10(1.003 - np.clip(recall, 0, 1))


def shrunk(place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Undo `stretched`."""
    return 1.003 - 10 ** -np.asarray(place)


def curve(points: Iterable[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Return recalls and speeds of the Pareto front from `LEAST_RECALL` on, which it begins at where it comes from below."""
    line = front([(point["recall"], point["qps"]) for point in points])
    shown = [point for point in line if point[0] >= LEAST_RECALL]
    below = [point for point in line if point[0] < LEAST_RECALL]
    if shown and below:
        (r0, s0), (r1, s1) = below[-1], shown[0]
        places = stretched(np.array([r0, LEAST_RECALL, r1]))
        start = np.exp(np.interp(places[1], places[::2], np.log([s0, s1])))
        shown.insert(0, (LEAST_RECALL, float(start)))
    return [recall for recall, _ in shown], [speed for _, speed in shown]


def strokes(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return how to draw each peer: Likewise above all others, indexes of one library in one colour."""
    made: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(names):
        colour = next((colour for start, colour in COLOURS.items() if name.startswith(start)), "#94a3b8")
        dash, marker = STROKES[sum(style["color"] == colour for style in made.values()) % len(STROKES)]
        own = colour == OWN
        made[name] = {
            "color": colour,
            "linestyle": dash,
            "marker": marker,
            "linewidth": (3.0 if name == "likewise" else 1.8) if own else 1.2,
            "markersize": 6 if name == "likewise" else 4,
            "alpha": 1.0 if own else 0.85,
            "zorder": 5 if own else 2,
            "label": name.replace("likewise", "Likewise"),
        }
    return made


def panels(n_rows: int, n_columns: int, *, sharey: Literal["none", "row"] = "none") -> tuple[Any, Any]:
    """Return a figure and its axes [n_rows, n_columns], speeds on a logarithmic scale."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    size = (12, 4.2 * n_rows + 0.9)
    figure, axes = plt.subplots(n_rows, n_columns, figsize=size, layout="constrained", squeeze=False, sharey=sharey)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(which="major", color="#e2e8f0", linewidth=0.8)
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    return figure, axes


def finish(figure: Any, axes: Any, name: str) -> None:
    """Give all panels one legend, above them, and write the drawing."""
    by_label: dict[str, Any] = {}
    for axis in axes.flat:
        for line, label in zip(*axis.get_legend_handles_labels()):
            by_label.setdefault(label, line)
    order = sorted(by_label, key=lambda label: (not label.startswith("Likewise"), label))
    figure.legend(
        [by_label[label] for label in order],
        order,
        loc="outside upper center",
        ncols=min(5, len(order)),
        frameon=False,
        handlelength=3.4,
    )
    figure.savefig(DOCS / f"{name}.png", dpi=110)


def draw_graph_search(d: dict[str, Any]) -> None:
    """Draw recall against speed: a row a data set, single calls and batches beside each other."""
    held = d["data"]
    styles = strokes(name for of in held.values() for name in of["peers"])
    ways = [
        way for way in ("single", "batch") if any(way in peer for of in held.values() for peer in of["peers"].values())
    ]
    figure, axes = panels(len(held), len(ways))
    told = {"single": "one query a call, one core", "batch": "all queries in one call"}
    for row, (key, of) in zip(axes, held.items()):
        for axis, way in zip(row, ways):
            for name, peer in of["peers"].items():
                recalls, speeds = curve(peer[way]["points"]) if way in peer else ([], [])
                axis.plot(recalls, speeds, **styles[name])
            axis.set_xscale("function", functions=(stretched, shrunk))
            axis.set(xlim=(LEAST_RECALL, 1), xlabel="recall@10", ylabel="queries a second")
            axis.set(xticks=RECALL_TICKS, xticklabels=[f"{tick:g}" for tick in RECALL_TICKS])
            axis.set_title(f"{title_of(key)}: {told[way]}", fontsize=10)
    finish(figure, axes, "graph_search")


def draw_filtered_search(d: dict[str, Any]) -> None:
    """Draw selectivity against speed: a row a data set, a panel a kind of filter."""
    held = d["data"]
    styles = strokes(name for of in held.values() for under in of["filters"].values() for name in under["peers"])
    told = {"random": "rows drawn at random", "near": "clusters near the queries", "far": "clusters far from them"}
    kinds = [kind for kind in told if any(label.startswith(kind) for of in held.values() for label in of["filters"])]
    figure, axes = panels(len(held), len(kinds), sharey="row")
    for row, (key, of) in zip(axes, held.items()):
        for axis, kind in zip(row, kinds):
            shares = {label: label.split()[1] for label in of["filters"] if label.startswith(kind)}
            for name, style in styles.items():
                speeds = [of["filters"][label]["peers"].get(name, {}).get("qps_at") for label in shares]
                if any(speeds):
                    axis.plot(range(len(speeds)), [speed or np.nan for speed in speeds], **style)
            axis.set(xticks=range(len(shares)), xticklabels=shares.values(), xlabel="rows that match")
            axis.set_title(f"{title_of(key)}\n{told[kind]}", fontsize=10)
        row[0].set_ylabel("queries a second at recall@10 of .95")
    finish(figure, axes, "filtered_search")


def draw_overview(found: dict[str, dict[str, Any]]) -> None:
    """Draw a subset scan, text quality and the cost of a request beside each other."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {"likewise": OWN, "faiss": "#475569", "numpy": "#cbd5e1"}
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), constrained_layout=True)
    scans = {key: value for key, value in found["subset_scan"].items() if key.endswith("%")}
    for who, colour in colours.items():
        us = [both["cold"][who]["us_per_query"] for both in scans.values()]
        axes[0].plot(
            [float(key[:-1]) for key in scans],
            us,
            "o-",
            color=colour,
            label={"likewise": "Likewise", "faiss": "FAISS", "numpy": "NumPy"}[who],
        )
    axes[0].set(
        xscale="log", yscale="log", xlabel="matching, %", ylabel="CPU us a query", title="Exact scan of a subset, cold"
    )
    axes[0].legend(frameon=False)
    abt = found["text_quality"]["abt_title_to_buy"]
    for at, measure in enumerate(("hit@1", "hit@10")):
        for side, shade in zip(("dense", "sparse", "joined"), ("#cbd5e1", "#94a3b8", OWN)):
            x = at * 4 + ("dense", "sparse", "joined").index(side)
            axes[1].bar(x, abt[side][measure], color=shade, width=0.9)
            axes[1].text(x, abt[side][measure] + 0.01, f"{abt[side][measure]:.3f}\n{side}", ha="center", fontsize=8)
    axes[1].set(
        xticks=[1, 5], xticklabels=["hit@1", "hit@10"], ylim=(0, 1.15), title="Abt title -> same product at Buy"
    )
    plain = [r for r in found["request_cost"]["rows"] if not r["filtered"]]
    labels = [f"{r['transport']}\n{r['connections']}" for r in plain]
    axes[2].bar(labels, [r["server_cpu_us"] for r in plain], color=OWN, label="find neighbors")
    axes[2].bar(labels, [r["null_server_cpu_us"] for r in plain], color="#fdba74", label="null")
    axes[2].set(ylabel="server CPU us a request", title="Serving, by connections")
    axes[2].legend(frameon=False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(DOCS / "benchmarks.png", dpi=110)


def main() -> None:
    """Write page and drawings."""
    writers = (
        graph_search,
        filtered_search,
        graph_growth,
        subset_scan,
        scan_bandwidth,
        live_index,
        export,
        overload,
        text_quality,
        picture_quality,
        cross_modal,
        embedding_speed,
        index_build,
        catalog_memory,
        request_cost,
        service_peers,
    )
    found = {writer.__name__: figures for writer in writers if (figures := read(writer.__name__)) is not None}
    page = HEAD
    if {"subset_scan", "text_quality", "request_cost"} <= found.keys():
        draw_overview(found)
        page += OVERVIEW
    drawn = (
        ("graph_search", draw_graph_search),
        ("filtered_search", draw_filtered_search),
        ("service_peers", draw_service_peers),
        ("cross_modal", draw_cross_modal),
    )
    for name, draw in drawn:
        if name in found:
            draw(found[name])
    page += "".join(writer(found[writer.__name__]) for writer in writers if writer.__name__ in found)
    (DOCS / "benchmarks.md").write_text(page)


if __name__ == "__main__":
    main()
