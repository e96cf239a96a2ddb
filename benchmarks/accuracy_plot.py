"""The plot of benchmarks.accuracy: divergence against the share of the FLOPs kept."""

from __future__ import annotations

from benchmarks.accuracy_grid import Grid, mean, of_pair, usual

COLOURS = {
    "rfx": "#2563eb",
    "kprune": "#15803d",
    "kwon": "#b45309",
    "kwon-reference": "#d97706",
    "magnitude": "#6b7280",
    "random": "#c4c9d1",
}


def plot(flops: Grid) -> str:
    """SVG of the divergence against the share of the FLOPs kept, one panel a pair."""
    import io

    import matplotlib
    from matplotlib.figure import Figure

    examples = {pair: n for pair, n in usual(flops).items() if not pair.endswith(("-val", "-more"))}
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.hashsalt": "accuracy",
        }
    ):
        figure = Figure(figsize=(3.1 * len(examples), 3.3), layout="constrained")
        axes = figure.subplots(1, len(examples), squeeze=False)[0]
        for ax, (pair, n) in zip(axes, examples.items()):
            for recipe in of_pair(flops, pair, n)[0]:
                if recipe not in COLOURS:
                    continue
                points = sorted(
                    (k[2], mean(c, "divergence"))
                    for k, c in flops.items()
                    if k[0] == pair and k[1] == recipe and k[3] == n
                )
                ax.plot(
                    [x for x, _ in points],
                    [y for _, y in points],
                    ".-",
                    color=COLOURS[recipe],
                    label=recipe,
                    linewidth=1.4,
                )
            ax.set(title=pair, xlabel="FLOPs kept", yscale="log")
        axes[0].set_ylabel("divergence from the dense model")
        figure.legend(
            *axes[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=len(COLOURS),
            frameon=False,
            fontsize=8,
        )
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()[out.getvalue().index("<svg") :]
