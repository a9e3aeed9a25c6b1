"""Write docs/benchmarks.md and docs/benchmarks.png from the figures in benchmarks/results/."""

from __future__ import annotations

import json
from typing import Any

import harness

HEAD = """# Benchmarks

`make bench` runs them all, one script a question, with `LIKEWISE_DATA` set; `python benchmarks/render.py` writes this page from
`benchmarks/results/`. Peers run in the same process order A B A B on the same vectors. Machines are shared and noisy: read
the ratios and the CPU times, not the last digits. Speed is never given without the recall of the same run.

![Subset scans, text quality, and CPU a request](benchmarks.png)
"""


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
    rows = [
        [f"{int(k.removeprefix('rows_')):,}", f"{v['peak_mib']:,.0f}", f"{v['wall_s']:.0f}", f"{v['cpu_s']:.0f}"]
        for k, v in d.items()
        if k.startswith("rows_")
    ]
    text = (
        f"\n## Memory of a catalogue build: `catalog_memory.py`\n\nTexts repeat every {d['distinct_texts']:,} rows.\n"
    )
    return text + table(["rows", "peak MiB", "wall s", "CPU s"], rows) + machine_line(d)


def serving(d: dict[str, Any]) -> str:
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
        f"\n## Serving: `serving.py`\n\nFind neighbors, {d['n']:,} x {d['dim']}, k {d['k']}, closed loop, generator on the same cores. "
        "Null is the same server over a tiny index.\n"
    )
    head = ["", "connections", "filtered", "CPU us a request", "null", "ratio", "p50 / p99 ms", "recall@10"]
    return text + table(head, rows) + machine_line(d)


def draw(found: dict[str, dict[str, Any]]) -> None:
    """Draw what has a shape."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {"likewise": "#c2410c", "faiss": "#475569", "numpy": "#cbd5e1"}
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
        for side, shade in zip(("dense", "sparse", "joined"), ("#cbd5e1", "#94a3b8", "#c2410c")):
            x = at * 4 + ("dense", "sparse", "joined").index(side)
            axes[1].bar(x, abt[side][measure], color=shade, width=0.9)
            axes[1].text(x, abt[side][measure] + 0.01, f"{abt[side][measure]:.3f}\n{side}", ha="center", fontsize=8)
    axes[1].set(
        xticks=[1, 5], xticklabels=["hit@1", "hit@10"], ylim=(0, 1.15), title="Abt title -> same product at Buy"
    )
    plain = [r for r in found["serving"]["rows"] if not r["filtered"]]
    labels = [f"{r['transport']}\n{r['connections']}" for r in plain]
    axes[2].bar(labels, [r["server_cpu_us"] for r in plain], color="#c2410c", label="find neighbors")
    axes[2].bar(labels, [r["null_server_cpu_us"] for r in plain], color="#fdba74", label="null")
    axes[2].set(ylabel="server CPU us a request", title="Serving, by connections")
    axes[2].legend(frameon=False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(harness.ROOT / "docs" / "benchmarks.png", dpi=110)


def main() -> None:
    """Write page and drawing."""
    writers = (subset_scan, text_quality, picture_quality, embedding_speed, index_build, catalog_memory, serving)
    found = {writer.__name__: figures for writer in writers if (figures := read(writer.__name__)) is not None}
    page = HEAD + "".join(writer(found[writer.__name__]) for writer in writers if writer.__name__ in found)
    (harness.ROOT / "docs" / "benchmarks.md").write_text(page)
    draw(found)


if __name__ == "__main__":
    main()
