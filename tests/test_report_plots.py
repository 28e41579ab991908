"""Pictures from frames and arrays: what they show is read back from the figure."""

import io

import numpy as np
import pandas as pd
import pytest

from callbacks import report_plots as plots

NAMES = ["Adiós", "Compañero", "Cómo está"]


def numbers(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_confusion_shows_counts_and_names_and_shares_of_the_row():
    matrix = np.array([[6, 2, 0], [0, 5, 0], [1, 0, 0]])
    figure = plots.confusion(matrix, NAMES)
    assert sorted(numbers(figure)) == ["1", "2", "5", "6"]
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == NAMES
    assert axes.images[0].get_array().tolist()[0] == [0.75, 0.25, 0]


@pytest.mark.parametrize(("classes", "written"), [(40, 40), (41, 0), (113, 0)])
def test_cells_are_annotated_up_to_forty_classes(classes, written):
    figure = plots.confusion(np.eye(classes, dtype=int), [f"class {k}" for k in range(classes)])
    assert len(numbers(figure)) == written
    assert max(figure.get_size_inches()) <= 22
    figure.savefig(io.BytesIO(), dpi=30)


def test_bars_are_green_orange_red_and_sorted_by_f1():
    frame = pd.DataFrame(
        {"class": NAMES, "precision": [1, 0.6, 0.2], "recall": [0.7, 0.8, 0.5], "f1-score": [0.71, 0.7, 0.5]}
    )
    figure = plots.per_class(frame.assign(support=[3, 2, 9]))
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels == ["Cómo está  (9)", "Compañero  (2)", "Adiós  (3)"]
    f1 = figure.axes[2].patches
    assert [bar.get_width() for bar in f1] == [0.5, 0.7, 0.71]
    assert [plots.f1_colour(value) for value in (0.5, 0.7, 0.71)] == [plots.RED, plots.ORANGE, plots.GREEN]


def test_calibration_shows_counts_and_skips_empty_bins():
    confidence, accuracy = np.array([np.nan, 0.4, 0.9]), np.array([np.nan, 0.5, 1.0])
    figure = plots.calibration(confidence, accuracy, np.array([0, 4, 7]), 0.123)
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.5, 1.0]
    assert numbers(figure) == ["4", "7"]
    assert "0.123" in figure.axes[0].get_title(loc="left")


def test_curves_mark_the_best_epoch_and_survive_missing_columns():
    log = pd.DataFrame({"epoch": [0, 1], "train/loss": [2.0, 1.0], "val/loss": [np.nan, 1.5], "lr": [0.1, 0.01]})
    figure = plots.curves(log, {"accuracy": 0.8, "top3": 0.9, "nll": 0.3}, {"accuracy": (0.7, 0.88)}, best_epoch=1)
    loss, _score, rate, final = figure.axes
    assert [line.get_xdata()[0] for line in loss.lines if line.get_label().startswith("best epoch")] == [1]
    assert rate.get_yscale() == "log"
    assert [bar.get_height() for bar in final.patches] == [0.8, 0.9]
    assert "0.700 to 0.880" in numbers(figure)
    figure.savefig(io.BytesIO(), dpi=30)


@pytest.mark.parametrize("last", [0.0, 5e-5, np.nextafter(5e-5, 1)])
def test_a_rate_that_spans_nothing_is_drawn(last):
    log = pd.DataFrame({"epoch": [0, 1], "train/loss": [2.0, 1.0], "lr": [5e-5, last]})
    rate = plots.curves(log, {}, {}).axes[2]
    low, high = rate.get_ylim()
    assert rate.get_yscale() == "log" and low < 5e-5 < high


def test_equal_figures_are_equal_bytes(tmp_path):
    from callbacks.report_files import write_figure

    paths = [write_figure(tmp_path / f"{k}.png", plots.confusion(np.eye(3, dtype=int), NAMES), dpi=30) for k in (0, 1)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_comparison_draws_each_row_with_its_interval():
    frame = pd.DataFrame({"run": ["a", "b"], "seeds": [1, 3], "macro_f1": [0.8, 0.9]})
    figure = plots.comparison(frame.assign(macro_f1_low=[0.7, 0.85], macro_f1_high=[0.85, 0.95]), "macro_f1")
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.8, 0.9]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["a", "b  (3 seeds)"]
