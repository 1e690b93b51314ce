"""A trained network as a pipeline of scikit-learn that needs no fedmq: preprocessing and model, already fitted.

Every step is fitted on made-up rows and then given the numbers of the model. One hot column for each category, none
for what is missing or not listed, is the same as the features of `Preparation` if the weights are moved: with w0 = 0
for the first category, a row of category i has weight wi, and one without any has the weight of "missing", which goes
into the biases: sum of (wi - wm) xi + wm.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.errors import BadConfiguration
from fedmq.models.exports.layout import Layer, layers
from fedmq.models.networks import MLP, Linear, LogLinear
from fedmq.models.trained_model import TrainedModel
from fedmq.tables.preparation import Preparation

ACTIVATIONS = {"relu": "relu", "tanh": "tanh", "sigmoid": "logistic"}


def to_sklearn(trained: TrainedModel) -> bytes:
    """Return a `Pipeline` as joblib writes it: a pickle, for the same version of scikit-learn.

    Raises:
        BadConfiguration: scikit-learn has no such model, or is missing.
    """
    try:
        import joblib
    except ImportError as error:
        raise _missing(error) from error
    buffer = io.BytesIO()
    joblib.dump(pipeline(trained), buffer)
    return buffer.getvalue()


def pipeline(trained: TrainedModel) -> Any:
    """Return a fitted `Pipeline` that takes a data frame, or an array (rows, inputs) for a model without a schema."""
    if not isinstance(trained.model, MLP | Linear | LogLinear):
        raise BadConfiguration(
            f"expected a network of layers, got {type(trained.model).__name__}, which scikit-learn has no steps for: "
            "export to onnx"
        )
    if trained.schema is not None and trained.schema.offset:
        raise BadConfiguration("expected a model without an offset, which scikit-learn does not know: export to onnx")
    columns = () if trained.schema is None else trained.schema.columns
    if required := [column.name for column in columns if column.missing == "drop"]:
        raise BadConfiguration(
            f"expected a model that fills all gaps, as scikit-learn does, got one that requires {required[0]!r:.80}: "
            "export to onnx"
        )
    try:
        import pandas as pd  # noqa: F401  of the columns
        from sklearn.pipeline import Pipeline
    except ImportError as error:
        raise _missing(error) from error
    stack, preparation = layers(trained), trained.preparation
    steps = []
    if preparation is not None:
        steps.append(("columns", _columns(preparation)))
        stack[0] = _with_all_categories(stack[0], preparation)
    rows = np.zeros((2, len(stack[0].weights)))
    steps.append(("model", _classifier(trained, stack, rows) if trained.classes else _regressor(trained, stack, rows)))
    return Pipeline(steps)


def _missing(error: ImportError) -> BadConfiguration:
    return BadConfiguration(f'expected the packages scikit-learn and pandas, got {error}: pip install "fedmq[export]"')


def _columns(preparation: Preparation) -> Any:
    """Return a fitted `ColumnTransformer`: for each column its features, or one for each category."""
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

    steps, cells = [], dict[str, list[Any]]()
    for place, column in enumerate(preparation.schema.columns):
        categories = [np.array(column.categories, dtype=object)]
        cells[column.name] = [column.categories[0]] * 2 if column.categories else [preparation.fill[place]] * 2
        if column.kind == "category":
            step = OneHotEncoder(categories=categories, handle_unknown="ignore", sparse_output=False)
        else:
            step = Pipeline([("fill", SimpleImputer(strategy="mean")), ("scale", StandardScaler())])
            if column.kind == "ordinal":
                codes = OrdinalEncoder(categories=categories, handle_unknown="use_encoded_value", unknown_value=np.nan)
                step.steps.insert(0, ("codes", codes))
        steps.append((column.name, step, [column.name]))
    # The names of steps may not be those of parameters, nor have two underscores.
    named = [(f"column{place}", step, column) for place, (_, step, column) in enumerate(steps)]
    fitted = ColumnTransformer(named).fit(pd.DataFrame(cells))
    for place, column in enumerate(preparation.schema.columns):
        if column.kind != "category":
            inner = fitted.named_transformers_[f"column{place}"].named_steps
            inner["fill"].statistics_ = preparation.fill[place : place + 1]
            inner["scale"].mean_ = preparation.shift[place : place + 1]
            inner["scale"].scale_ = preparation.scale[place : place + 1]
            inner["scale"].var_ = inner["scale"].scale_ ** 2
    return fitted


def _with_all_categories(layer: Layer, preparation: Preparation) -> Layer:
    """Return the first layer for one input for each category, none for what is missing."""
    weights, biases, start = [], layer.biases.copy(), 0
    for column in preparation.schema.columns:
        own = layer.weights[start : start + column.num_features]
        start += column.num_features
        if column.kind == "category":
            missing = own[-1]
            biases += missing
            own = np.concatenate([np.zeros_like(own[:1]), own[:-1]]) - missing
        weights.append(own)
    return Layer(np.concatenate(weights), biases)


def _classifier(trained: TrainedModel, stack: list[Layer], rows: npt.NDArray[Any]) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    classes = np.array(trained.classes if trained.schema else range(len(trained.classes)))
    order = np.argsort(classes)  # as scikit-learn has them
    classes, weights, biases = classes[order], stack[-1].weights[:, order], stack[-1].biases[order]
    stack[-1] = Layer(weights, biases)
    if len(classes) == 2:  # scikit-learn has one output for two classes
        stack[-1] = Layer(weights[:, 1:] - weights[:, :1], biases[1:] - biases[:1])
    rows = np.resize(rows, (len(classes), rows.shape[1]))
    if len(stack) == 1:
        model = LogisticRegression()
        model.classes_, model.n_features_in_, model.n_iter_ = classes, rows.shape[1], np.array([0])
        model.coef_, model.intercept_ = stack[0].weights.T.copy(), stack[0].biases.copy()
        return model
    assert isinstance(trained.model, MLP)
    sizes = tuple(trained.model.sizes[1:-1])
    model = MLPClassifier(hidden_layer_sizes=sizes, activation=ACTIVATIONS[trained.model.hidden])
    return _with_layers(model.partial_fit(rows, classes, classes=classes), stack)


def _regressor(trained: TrainedModel, stack: list[Layer], rows: npt.NDArray[Any]) -> Any:
    from sklearn.linear_model import LinearRegression, PoissonRegressor
    from sklearn.neural_network import MLPRegressor

    scale, outputs = trained.output_scale, stack[-1].biases
    if isinstance(trained.model, LogLinear):
        model = PoissonRegressor(solver="newton-cholesky").fit(rows, np.ones(len(rows)))
        model.coef_, model.intercept_ = stack[0].weights[:, 0].copy(), float(outputs[0] + np.log(scale))
        return model
    stack[-1] = Layer(stack[-1].weights * scale, outputs * scale)
    targets = np.zeros((len(rows), len(outputs))) if len(outputs) > 1 else np.zeros(len(rows))
    if len(stack) == 1:
        model = LinearRegression().fit(rows, targets)
        one = len(outputs) == 1
        model.coef_ = stack[0].weights[:, 0].copy() if one else stack[0].weights.T.copy()
        model.intercept_ = float(stack[0].biases[0]) if one else stack[0].biases.copy()
        return model
    assert isinstance(trained.model, MLP)
    model = MLPRegressor(
        hidden_layer_sizes=tuple(trained.model.sizes[1:-1]), activation=ACTIVATIONS[trained.model.hidden]
    )
    return _with_layers(model.partial_fit(rows, targets), stack)


def _with_layers(model: Any, stack: list[Layer]) -> Any:
    model.coefs_ = [layer.weights.copy() for layer in stack]
    model.intercepts_ = [layer.biases.copy() for layer in stack]
    return model
