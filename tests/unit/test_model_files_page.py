"""The program in docs/reference/model-files.md predicts from the JSON of each kind of model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_exports import FORESTS, MODELS, ONNX_ONLY, name_of

from fedmq.models.exports.verified import export, raw_inputs, sample_rows
from fedmq.models.trained_model import TrainedModel, incomplete

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "model-files.md"


@pytest.mark.parametrize("model", [one for one in (*MODELS, *ONNX_ONLY, *FORESTS) if one.schema], ids=name_of)
def test_program_of_the_page_predicts_from_json(model: TrainedModel) -> None:
    """The program in the documentation computes what the model computes, with nothing but the standard library."""
    assert model.schema is not None
    names: dict[str, Any] = {}
    exec(PAGE.read_text().split("```python\n")[1].split("```")[0], names)  # noqa: S102  of this repository
    described = json.loads(export(model, "json").content)
    rows = sample_rows(model, 40)
    raw = raw_inputs(model, rows)
    cells = {name: [None if one != one else one for one in values[:, 0].tolist()] for name, values in raw.items()}
    found = [names["outputs"](described, {name: column[row] for name, column in cells.items()}) for row in range(40)]
    complete = ~incomplete(model.schema, rows)  # type: ignore[arg-type]
    outputs = np.array(found)[complete]
    if model.classes:
        shares = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(shares, model.probabilities(rows)[complete], rtol=1e-9)
    else:
        np.testing.assert_allclose(outputs[:, 0] * described["output_scale"], model.predict(rows)[complete], rtol=1e-9)
