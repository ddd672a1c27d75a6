"""`labutil compare`: tables, text, CSV, one page without anything from elsewhere; and the figures by themselves."""

from __future__ import annotations

import base64
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from planted import leave_run, some_labels

from labutil import cli, evaluation, paths
from labutil.compare import encoders, figures, methods, report, results
from labutil.data import load_dataset
from labutil.runs import predict

Y = some_labels()


def call(*args):
    return CliRunner().invoke(cli.main, list(map(str, args)))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def fit_of(**changes):
    return {"epochs": 5, "batch_size": 64, "lr": 0.002, "optimizer": "adamw", "schedule": "cosine"} | changes


@pytest.fixture
def planted_runs(tmp_path):
    """Three methods, of two, two and one seed, on images that exist; the first keeps a model."""
    data = load_dataset("cells:120", image_size=16)
    known = dict(
        y_true=data.test.labels.numpy(), classes=data.classes, dataset="cells:120", fingerprint=data.fingerprint
    )
    study = {"no flip, seed 0": fit_of(), "basic_cnn": fit_of(lr=1.0), "resnet8": fit_of(epochs_run=3)}
    for seed in (0, 1):
        leave_run(
            tmp_path, "02_supervised_baseline", seed=seed, model="resnet8", fits=study,
            params={"encoders": ["basic_cnn", "resnet8"]}, metrics={"random_encoder_knn_accuracy": 0.25}, **known,
        )  # fmt: skip
        leave_run(
            tmp_path, "04_simclr", seed=seed, params={"method": "simclr"}, share=0.5,
            fits={"pretrain": fit_of(lr=0.1), "linear": fit_of(schedule="plateau", optimizer="sgd")},
            metrics={"knn_accuracy": 0.4, "linear_accuracy": 0.5, "shifted_accuracy": 0.3}, **known,
        )  # fmt: skip
    leave_run(tmp_path, "06_autoencoder", share=0.6, fits={"autoencoder": fit_of()}, params={"loss": "bce"}, **known)
    return tmp_path


def test_compare_prints_and_writes_text_csv_and_page(planted_runs):
    done = call("compare", planted_runs)
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    text = (planted_runs / "compare_summary.txt").read_text()
    assert text in done.stdout
    assert done.stdout.strip().endswith("compare_summary.html")
    (board,) = results.collect(planted_runs).boards
    accuracies = [(m.probabilities.argmax(1) == m.y_true).mean() for m in board.methods[0].members]
    assert f"{np.mean(accuracies):.4f} ± {np.std(accuracies, ddof=1):.4f}" in text
    lines = text.splitlines()
    table = [
        line for line in lines if re.match(r"(chance|random encoder|supervised|SimCLR|autoencoder|ensemble)", line)
    ]
    assert [line.split("  ")[0] for line in table[:6]] == [
        "chance", "random encoder, k-NN", "supervised", "SimCLR", "autoencoder", "ensemble of all 3",
    ]  # fmt: skip
    assert "is ahead of" in text or "no evidence of a difference" in text
    assert "Where a method has one run, seeds are taken to move it by" in text

    frame = pd.read_csv(planted_runs / "compare_summary.csv")
    assert frame.method.tolist() == ["supervised", "SimCLR", "autoencoder", "ensemble"]
    assert frame.accuracy[0] == pytest.approx(np.mean(accuracies))
    assert frame.seeds.tolist() == [2, 2, 1, 1]
    assert set(frame.fingerprint) == {board.fingerprint}

    page = (planted_runs / "compare_summary.html").read_text()
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert 'name="viewport"' in page
    assert "color-scheme:light dark" in page
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert all(base64.b64decode(p)[:4] == b"\x89PNG" for p in pictures)
    titles = re.findall(r'<img alt="([^"]+)"', page)
    assert {"Accuracy with intervals", "Every method against every other", "Accuracy against cost", "Agreement",
            "Accuracy by class", "Calibration", "The same images as each encoder sees them"} <= set(titles)  # fmt: skip
    assert any(title.startswith("Wrong by every method") for title in titles)
    assert "keeps no model" in page  # of two methods there is no map, and the page says so
    # Again, with its own files lying there
    assert call("compare", planted_runs).stdout == done.stdout


def test_settings_table_is_report_a_s(planted_runs):
    (board,) = results.collect(planted_runs).boards
    table = report.settings_table(board)
    assert list(table) == [
        "Model", "Optimizer", "Scheduler", "Start LR", "Image Size", "Batch Size", "Epochs", "Criterion",
        "Test Accuracy",
    ]  # fmt: skip
    assert table.Model.tolist() == [
        "supervised, resnet8", "SimCLR, pretrain", "SimCLR, linear", "autoencoder",
    ]  # fmt: skip
    assert table.Criterion.tolist() == ["cross-entropy", "InfoNCE", "cross-entropy", "BCE"]
    assert table["Start LR"].tolist() == ["0.002", "0.1", "0.002", "0.002"]
    assert table.Epochs.tolist() == ["3", "5", "5", "5"]
    assert table.Optimizer.tolist() == ["adamw", "adamw", "sgd", "adamw"]
    assert table["Image Size"].tolist() == ["16"] * 4
    assert table["Test Accuracy"][1] == ""
    assert "±" in table["Test Accuracy"][2]
    assert "±" not in table["Test Accuracy"][3]


def test_settings_of_lessons_that_name_their_trainings_otherwise(tmp_path):
    fits = {"SupCon": fit_of(), "SimCLR": fit_of(), "linear, SimCLR": fit_of(), "linear, SupCon": fit_of(epochs=20)}
    leave_run(tmp_path, "05_supcon", y_true=Y, fits=fits)
    fits = {"BasicCNN, 10% of labels, seed 0": fit_of(), "fine-tune": fit_of(lr=0.001), "head 3": fit_of()}
    leave_run(tmp_path, "03_transfer_learning", y_true=Y, fits=fits, metrics={"fine_tuned_accuracy": 0.25})
    (board,) = results.collect(tmp_path).boards
    table = report.settings_table(board).set_index("Model")
    assert table.index.tolist() == [
        "transfer, fine-tune", "transfer, linear or other head on frozen features",
        "SupCon, pretrain", "SupCon, linear",
    ]  # fmt: skip
    tested = [f"{m.metric('test_accuracy')[0]:.4f}" for m in board.methods]
    assert table["Test Accuracy"].tolist() == ["0.2500", tested[0], "", tested[1]]
    assert table.Criterion.tolist() == ["cross-entropy", "", "SupCon", "cross-entropy"]
    assert table.Epochs.tolist() == ["5", "", "5", "20"]


def test_images_and_features_are_those_that_the_runs_saw(planted_runs):
    (board,) = results.collect(planted_runs).boards
    images = encoders.test_images(board)
    data = load_dataset("cells:120", image_size=16)
    assert np.array_equal(images, data.test.images)
    index = np.array([3, 1, 2])
    h = encoders.features(board, board.methods[0], index)
    model, _ = predict.load_model(board.methods[0].members[0].dir)
    assert np.allclose(h, evaluation.predict(model.encoder, data.test.images[index]), atol=1e-3)
    with pytest.raises(paths.DataError, match="keeps no model"):
        encoders.features(board, board.methods[1], index)


def test_a_page_without_images_says_why(tmp_path):
    leave_run(tmp_path, "05_supcon", y_true=Y, dataset="npz:/nowhere/x.npz")
    leave_run(tmp_path, "02_supervised_baseline", y_true=Y, dataset="npz:/nowhere/x.npz")
    done = call("compare", tmp_path)
    assert done.exit_code == 0
    assert "no images here: /nowhere/x.npz does not exist" in (tmp_path / "compare_summary.html").read_text()
    # The data set is there, but other images than then
    leave_run(tmp_path / "other", "05_supcon", y_true=Y, dataset="cells:60")
    assert call("compare", tmp_path / "other").exit_code == 0
    assert "no longer what the runs saw" in (tmp_path / "other" / "compare_summary.html").read_text()


def test_several_data_sets_have_tables_of_their_own(tmp_path):
    for fingerprint, dataset in (("a" * 16, "npz:/a.npz"), ("b" * 16, "npz:/b.npz")):
        leave_run(tmp_path, "05_supcon", y_true=Y, fingerprint=fingerprint, dataset=dataset)
    text = call("compare", tmp_path).stdout
    assert "2 sets of test images here" in text
    assert text.count("====") >= 2
    assert "ensemble" not in text  # of one method


def test_usage_errors_are_one_line_and_exit_2(tmp_path):
    (tmp_path / "bad" / "x").mkdir(parents=True)
    (tmp_path / "bad" / "x" / "run.json").write_text("{}")
    for args, message in (
        (("compare", tmp_path / "none"), "is no directory"),
        (("compare", tmp_path / "bad"), "holds no run to compare (x: foreign or corrupt"),
        (("compare",), "is no directory"),  # the project's runs, of which there are none yet
    ):
        done = call(*args)
        assert done.exit_code == 2
        assert message in done.stderr
        assert done.stderr.startswith("labutil: ")
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "bad" / "compare_summary.txt").exists()
    paths.runs_dir().mkdir()
    assert "holds no run to compare: labutil run all" in call("compare").stderr


def test_many_methods_many_classes_and_strange_names(tmp_path):
    """What a sweep leaves: fourteen settings, 30 classes, names with markup and underscores."""
    y = np.arange(300) % 30
    names = tuple(f"_<b>${k}" for k in range(30))
    for i in range(14):
        lr = {"lr": 10.0**-i}
        known = dict(y_true=y, classes=names, dataset="npz:/none.npz")
        leave_run(tmp_path, "02_supervised_baseline", params=lr, share=0.3 + i / 30, draw=i, **known)
    done = call("compare", tmp_path)
    assert done.exit_code == 0, done.stderr
    assert len(re.findall(r"is ahead of|no evidence", done.stdout)) == 13  # the best against each other one
    assert "<b>" not in (tmp_path / "compare_summary.html").read_text()


def test_pareto_is_a_slow_loop():
    rng = np.random.default_rng(0)
    for _ in range(50):
        cost, score = rng.integers(0, 5, 8).astype(float), rng.integers(0, 5, 8).astype(float)
        found = figures.pareto(cost, score)
        for i in range(8):
            beaten = any(
                cost[j] <= cost[i] and score[j] >= score[i] and (cost[j] < cost[i] or score[j] > score[i])
                for j in range(8)
            )
            assert found[i] == (not beaten)
    assert figures.pareto([1, np.nan], [0.5, 0.9]).tolist() == [True, False]


def texts(figure):
    figure.canvas.draw()
    return " ".join(t.get_text() for t in figure.findobj(plt.Text))


def test_figures_show_numbers_and_names(planted_runs):
    (board,) = results.collect(planted_runs).boards
    table, pairs = methods.summary(board), methods.pairs(board)
    shown = texts(figures.intervals(table, chance=0.2, random_encoder=0.25))
    assert f"{table.accuracy.iloc[0]:.3f} ± {table.accuracy_std.iloc[0]:.3f}, 2 seeds" in shown
    assert "1 seed" in shown
    assert "chance, 0.200" in shown
    shown = texts(figures.differences(pairs))
    assert f"{pairs.difference[0] * 100:+.1f}" in shown
    assert f"{-pairs.difference[0] * 100:+.1f}" in shown
    assert shown.count("*") == 1 + 2 * pairs.evidence.sum()
    assert "parameters" in texts(figures.cost(table))
    mean, std = methods.metric_table(board, {"home": "test_accuracy", "shifted": "shifted_accuracy"})
    assert "0.300" in texts(figures.grouped(mean, std=std, chance=0.2))
    xy = {m.label: np.random.default_rng(0).random((len(board.y_true), 2)) for m in board.methods}
    assert "autoencoder" in texts(figures.maps(xy, board.y_true, board.classes, chosen=1))
    first = {m.label: m.members[0].probabilities for m in board.methods}
    assert "ECE" in texts(figures.calibrations(board.y_true, first))
    wide = pd.DataFrame(np.random.default_rng(0).random((40, 3)), columns=list("abc"))
    assert "the 20 of 40 rows that differ most" in texts(figures.heat(wide, label="x"))
    row = {"share": 0.1, "seed": 0, "split": "test"}
    curves = pd.DataFrame([row | {"method": m, "labels": n, "accuracy": 0.5} for m in "ab" for n in (10, 100)])
    assert "test accuracy" in texts(figures.label_efficiency(curves))


def test_the_same_point_has_the_same_colour_in_every_map():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 30, 90)
    figure = figures.maps({n: rng.random((90, 2)) for n in "ab"}, labels, [str(k) for k in range(30)])
    colours = [[tuple(c.get_facecolor()[0]) for c in axes.collections] for axes in figure.axes[:2]]
    sizes = [[len(c.get_offsets()) for c in axes.collections] for axes in figure.axes[:2]]
    assert colours[0] == colours[1]
    assert sizes[0] == sizes[1]
    assert len(colours[0]) == 21  # twenty classes, and the rest
