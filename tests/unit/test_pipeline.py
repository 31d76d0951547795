"""The grid as people type it, and fitting with many threads."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor

from liquidity.data.table import inputs_and_target
from liquidity.search.pipeline import PARAM_GRID, build_pipeline, fit_pipeline, parse_grid

DEFAULT = {"n_estimators": "100,200,300", "max_depth": "none,5,10", "min_samples_split": "2,5,10"}


def test_the_default_texts_are_the_default_grid():
    assert parse_grid(**DEFAULT) == PARAM_GRID


@pytest.mark.parametrize("name", DEFAULT)
@pytest.mark.parametrize("text", ["0", "-3", "abc", "", "5,", "5,5", "1.5", "²", "1e3"])
def test_a_wrong_grid_value_is_named(name, text):
    with pytest.raises(ValueError, match=f"{name}: .*{text.split(',')[-1]!r}"):
        parse_grid(**DEFAULT | {name: text})


def test_only_max_depth_knows_none():
    assert parse_grid(**DEFAULT | {"max_depth": "None"})["max_depth"] == [None]
    with pytest.raises(ValueError, match="n_estimators: expected whole numbers >= 1"):
        parse_grid(**DEFAULT | {"n_estimators": "none"})


def test_drawing_all_rows_is_the_forest_with_its_default_settings():
    plain = RandomForestRegressor(random_state=0).get_params()
    for pipeline in (build_pipeline(random_state=0), build_pipeline(random_state=0, max_samples=1)):
        assert pipeline[-1].get_params() == plain
    half = build_pipeline(random_state=0, max_samples=0.5)[-1].get_params()
    assert half == plain | {"max_samples": 0.5}


def test_the_number_of_threads_changes_no_bit(sample_table):
    X, y = inputs_and_target(sample_table.head(300))
    pipeline = build_pipeline(random_state=0)
    one, two = (fit_pipeline(pipeline, X, y, n_jobs=n).predict(X) for n in (1, 2))
    assert np.array_equal(one, two)
