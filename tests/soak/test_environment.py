"""The environment that a model brings along; slow, so `make soak` runs it."""

import pytest
from support import GOOD, mlflow_scoring_server, post

pytestmark = pytest.mark.soak


def test_the_models_own_environment_is_built_and_answers(model_folder, tmp_path):
    with mlflow_scoring_server(model_folder, tmp_path, "uv") as server:
        status, answer = post(server, {"dataframe_records": [GOOD]})
    assert (status, len(answer["predictions"])) == (200, 1)
