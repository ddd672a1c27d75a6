"""docs/photographs.png: k-NN and linear accuracy on CIFAR-10 by passes over the data, ours and what others published.

    python docs/photographs.py

Ours: docs/reports/photographs.csv and photographs_fine_tuned.csv; after 40 passes k-NN is of validation images, all
else of test images (docs/measured.md, *Photographs*). lightly's figures are of its CIFAR-10 benchmark, solo-learn's of
its results on CIFAR-10.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

HERE = Path(__file__).parent
PUBLISHED = [
    ("SimCLR, ResNet-18 (lightly)", "k-NN", 200, 0.848),
    ("SimCLR, ResNet-18 (lightly)", "k-NN", 800, 0.879),
    ("SimCLR, ResNet-18 (solo-learn)", "linear", 1000, 0.9074),
    ("BYOL, ResNet-18 (solo-learn)", "linear", 1000, 0.9258),
]
AFTER_FORTY = 0.656  # k-NN on validation images, mean of three seeds


def main() -> None:
    """Draw and write the figure."""
    ten = pd.read_csv(HERE / "reports" / "photographs.csv", comment="#")
    forty = pd.read_csv(HERE / "reports" / "photographs_fine_tuned.csv", comment="#")
    names = {("04_simclr", "none"): "SimCLR", ("05_supcon", "0.1"): "SupCon", ("05_supcon", "none"): "cross-entropy"}
    after = ("k-NN", AFTER_FORTY), ("linear", forty.linear_accuracy.mean())
    rows = [("SimCLR, resnet8", judged, 40, value) for judged, value in after]
    for (notebook, tau), found in ten.groupby(["notebook", ten.tau.fillna("none").astype(str)]):
        name = f"{names[notebook, tau]}, resnet8"
        rows += [(name, "k-NN", 10, found.knn_accuracy.mean()), (name, "linear", 10, found.linear_accuracy.mean())]
    table = pd.DataFrame(rows + PUBLISHED, columns=["method", "judged by", "passes", "accuracy"])
    sns.set_theme(style="ticks", palette="colorblind")
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    sns.lineplot(table, x="passes", y="accuracy", hue="method", style="judged by", markers=True, ax=axis, markersize=9)
    axis.set(xscale="log", xticks=[10, 40, 200, 800], xlabel="passes over the training images", ylim=(0.55, 0.95))
    axis.set_xticklabels(["10", "40", "200", "800"])
    axis.minorticks_off()
    sns.move_legend(axis, "center left", bbox_to_anchor=(1, 0.5), frameon=False)
    sns.despine(figure)
    figure.savefig(HERE / "photographs.png", dpi=110)


if __name__ == "__main__":
    main()
