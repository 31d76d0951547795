"""Figures draw for every shape of grid and target that a search can have."""

import io

import numpy as np
import pytest

from liquidity.report.style import write_png
from liquidity.report.training_plots import confusion_matrix, model_figures, search_figures
from liquidity.runs.tracking import trials_table
from liquidity.search.grid import Trial, candidates


def trials(**grid):
    return [
        Trial(point, (0.1 * number, 0.2 * number), 1.0)
        for number, point in enumerate(candidates(grid))
    ]


def draw(figures):
    for figure in figures.values():
        write_png(figure, io.BytesIO())
    return set(figures)


@pytest.mark.parametrize(
    ("depths", "splits", "sizes"),
    [([None, 5, 10], [2, 5, 10], [100, 200, 300]), ([None], [2], [5]), ([3, 4, 5, 6], [2], [1, 9])],
)
def test_search_figures_draw(depths, splits, sizes):
    grid = trials(max_depth=depths, min_samples_split=splits, n_estimators=sizes)
    assert draw(search_figures(grid)) == {
        "grid_heatmap.png", "r2_by_trees.png", "parallel_coordinates.png"
    }  # fmt: skip


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6])
def test_model_figures_draw(scale):
    y = np.linspace(0, 1, 20) * scale
    importance = np.zeros((4, 5))
    names = draw(model_figures(y, y[::-1], quantile=0.5, importance=importance))
    assert "predicted_vs_actual.png" in names
    assert len(names) == 4


def test_the_confusion_counts_are_the_rows(sample_table):
    figure = confusion_matrix(np.array([0.1, 0.6, 0.7]), np.array([0.1, 0.4, 0.9]))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["1", "0", "1", "1"]


def test_the_table_of_trials_starts_with_the_best():
    table = trials_table(trials(max_depth=[None, 3], min_samples_split=[2], n_estimators=[5]))
    assert list(table.columns[:4]) == ["rank", "max_depth", "min_samples_split", "n_estimators"]
    assert table["rank"].tolist() == [1, 2]
    assert table["max_depth"].tolist() == ["3", "None"]


def test_one_drawing_gives_the_picture_that_two_give():
    grid = trials(max_depth=[None, 3], min_samples_split=[2], n_estimators=[5, 9])
    once, twice = (search_figures(grid)["r2_by_trees.png"] for _ in range(2))
    written, saved = io.BytesIO(), io.BytesIO()
    write_png(once, written, dpi=110)
    twice.savefig(saved, format="png", dpi=110)
    assert written.getvalue() == saved.getvalue()
