"""Exports of Keras models. The export itself compares each graph with Keras; these tests look at what is in the file, and at
what is refused."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
pytest.importorskip("tensorflow", reason="the export needs TensorFlow: pip install './python[keras]'")
keras = pytest.importorskip("keras")

import tensorflow as tf  # noqa: E402

import tidemill  # noqa: E402
from tidemill._ids import first_row, id_of, mix  # noqa: E402
from tidemill.keras import Exported, export, load_weights  # noqa: E402
from tidemill.keras._file import unpack  # noqa: E402
from tidemill.keras._patch import kept  # noqa: E402
from tidemill.local import find_binary  # noqa: E402

L = keras.layers
Make = Callable[[], Any]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    keras.utils.set_random_seed(5)


def compiled(inputs: Any, output: Any, loss: Any = "binary_crossentropy") -> Any:
    model = keras.Model(inputs, output)
    model.compile(loss=loss)
    return model


def sigmoid(x: Any) -> Any:
    return L.Dense(1, activation="sigmoid")(x)


def two_tables() -> Any:
    user, item = keras.Input((), name="user", dtype="int32"), keras.Input((), name="item", dtype="int32")
    age = keras.Input((1,), name="age")
    x = L.Concatenate()([L.Embedding(100, 4, name="users")(user), L.Embedding(50, 3, name="items")(item), age])
    x = L.BatchNormalization()(L.Dense(8, kernel_regularizer="l2")(x))
    x = L.Dropout(0.3)(L.Activation("relu")(x))
    return compiled([user, item, age], sigmoid(x))


def masked_list() -> Any:
    tags = keras.Input((6,), name="tags", dtype="int32")
    return compiled(tags, sigmoid(L.GlobalAveragePooling1D()(L.Embedding(30, 4, mask_zero=True)(tags))))


def masked_one() -> Any:
    user = keras.Input((), name="user", dtype="int32")
    rows = L.Embedding(30, 4, mask_zero=True)(user)
    return compiled(
        user, sigmoid(L.Lambda(lambda t: t[0] * keras.ops.cast(t[1], "float32")[:, None])([rows, keras.ops.not_equal(user, 0)]))
    )


def plain_list() -> Any:
    model = keras.Sequential([keras.Input((3,), name="tags"), L.Embedding(30, 4), L.Flatten(), L.Dense(1)])
    model.compile(loss="mse")
    return model


def shared_table() -> Any:
    a, b = keras.Input((), name="a", dtype="int32"), keras.Input((), name="b", dtype="int32")
    table = L.Embedding(40, 5, embeddings_initializer=keras.initializers.RandomNormal(stddev=0.1))
    return compiled([a, b], L.Activation("sigmoid")(L.Dot(1)([table(a), table(b)])))


def named_inputs() -> Any:
    inputs = {"b": keras.Input((2, 2), name="b"), "a": keras.Input((), name="a")}
    x = L.Concatenate()([L.Reshape((1,))(inputs["a"]), L.Flatten()(inputs["b"])])
    return compiled(inputs, L.Dense(1)(x), "huber")


def classes(loss: Any, activation: str | None) -> Make:
    def make() -> Any:
        x = keras.Input((4,), name="x")
        return compiled(x, L.Dense(3, activation=activation)(L.LayerNormalization()(x)), loss)

    return make


def custom_loss() -> Any:
    def skewed(y: Any, p: Any) -> Any:
        return keras.ops.mean(keras.ops.where(y > p, 3.0, 1.0) * keras.ops.abs(y - p), axis=-1)

    x = keras.Input((2,), name="x")
    return compiled(x, L.Dense(1)(x), skewed)


def loss_class() -> Any:
    @keras.saving.register_keras_serializable("test")
    class Cubic(keras.losses.Loss):  # type: ignore[misc,name-defined]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return keras.ops.abs(y_true - y_pred) ** 3

    x = keras.Input((2,), name="x")
    return compiled(x, L.Dense(1)(x), Cubic())


def logits() -> Any:
    x = keras.Input((2,), name="x")
    return compiled(x, L.Dense(1)(x), keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1))


def half() -> Any:
    x = keras.Input((2,), name="x")
    policy = keras.DTypePolicy("mixed_float16")
    return compiled(x, L.Dense(1, activation="sigmoid", dtype="float32")(L.Dense(4, dtype=policy)(x)))


def unrolled() -> Any:
    tags = keras.Input((3,), name="tags", dtype="int32")
    return compiled(tags, sigmoid(L.LSTM(4, unroll=True)(L.Embedding(20, 4)(tags))))


def attention() -> Any:
    tags = keras.Input((4,), name="tags", dtype="int32")
    x = L.Embedding(20, 8)(tags)
    x = L.MultiHeadAttention(2, 4, dropout=0.2)(x, x)
    return compiled(tags, sigmoid(L.GlobalMaxPooling1D()(x)))


def convolution() -> Any:
    x = keras.Input((8, 8, 1), name="x")
    y = L.MaxPooling2D()(L.Conv2D(3, 3, activation="relu", padding="same")(x))
    return compiled(x, sigmoid(L.Flatten()(y)))


def nested() -> Any:
    inner = keras.Sequential(
        [keras.Input((5,)), L.Dense(4, activation="gelu"), L.BatchNormalization(), L.Dropout(0.5)], name="inner"
    )
    x = keras.Input((5,), name="x")
    return compiled(x, sigmoid(inner(x)))


def frozen() -> Any:
    x = keras.Input((3,), name="x")
    norm, dense = L.BatchNormalization(trainable=False), L.Dense(4, trainable=False)
    return compiled(x, sigmoid(dense(norm(x))))


def activity() -> Any:
    x = keras.Input((3,), name="x")
    return compiled(x, sigmoid(L.Dense(4, activity_regularizer="l1")(x)))


MODELS: dict[str, tuple[Make, dict[str, Any]]] = {
    "two tables, norm, dropout": (two_tables, {}),
    "masked list": (masked_list, {}),
    "masked one": (masked_one, {}),
    "list": (plain_list, {}),
    "shared table": (shared_table, {}),
    "named inputs": (named_inputs, {"features": {"b": ["b0", "b1", "b2", "b3"]}}),
    "classes": (classes("sparse_categorical_crossentropy", "softmax"), {"features": {"x": list("abcd")}}),
    "classes of logits": (
        classes(keras.losses.SparseCategoricalCrossentropy(from_logits=True), None),
        {"features": {"x": list("abcd")}},
    ),
    "one-hot classes": (classes("categorical_crossentropy", "softmax"), {"features": {"x": list("abcd")}}),
    "custom loss": (custom_loss, {"features": {"x": ["u", "v"]}}),
    "loss class": (loss_class, {"features": {"x": ["u", "v"]}}),
    "logits": (logits, {"features": {"x": ["u", "v"]}}),
    "half precision": (half, {"features": {"x": ["u", "v"]}}),
    "unrolled": (unrolled, {}),
    "attention": (attention, {}),
    "convolution": (convolution, {"features": {"x": [f"p{i}" for i in range(64)]}}),
    "nested": (nested, {"features": {"x": list("abcde")}}),
    "frozen layers": (frozen, {"features": {"x": list("abc")}}),
    "activity": (activity, {"features": {"x": list("abc")}}),
}


def exported(make: Make, path: pathlib.Path, **options: Any) -> tuple[Exported, dict[str, Any], dict[str, bytes]]:
    found = export(make(), path, rows=16, verbose=False, **options)
    return found, *unpack(path.read_bytes())


@pytest.fixture(scope="session")
def inspected() -> Callable[[pathlib.Path], None]:
    """Has the program check a file, where there is one."""
    try:
        program = find_binary()
    except tidemill.NotFoundError:
        if os.environ.get("TIDEMILL_REQUIRE"):
            raise
        return lambda path: None

    def inspect(path: pathlib.Path) -> None:
        got = subprocess.run([str(program), "inspect", str(path)], capture_output=True, text=True, timeout=120)
        assert got.returncode == 0, got.stderr

    return inspect


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str, tmp_path: pathlib.Path, inspected: Callable[[pathlib.Path], None]) -> None:
    make, options = MODELS[name]
    _, manifest, parts = exported(make, tmp_path / "m.graph", **options)
    inspected(tmp_path / "m.graph")
    assert manifest["check"]["loss"] <= 1e-5
    assert manifest["check"]["gradient"] <= 1e-4
    values = sum(int(np.prod(p["shape"])) for p in manifest["parameters"])
    assert len(parts.get("parameters.bin", b"")) == 4 * values


def test_what_is_in_the_file(tmp_path: pathlib.Path) -> None:
    made, manifest, parts = exported(two_tables, tmp_path / "m.graph")
    assert made.features == ("age", "user", "item")
    assert made.tables == ("users", "items")
    assert made.architecture == {"kind": "graph", "file": str(tmp_path / "m.graph")}
    assert manifest["label"] == {"type": "binary"}
    assert manifest["prediction"]["kind"] == "probability"
    assert [(t["name"], t["dim"], t["init"]) for t in manifest["tables"]] == [
        ("users", 4, {"kind": "uniform", "scale": 0.05}),
        ("items", 3, {"kind": "uniform", "scale": 0.05}),
    ]
    moving = [p for p in manifest["parameters"] if p["kind"] == "moving"]
    assert [p["momentum"] for p in moving] == [0.99, 0.99]
    values = np.frombuffer(parts["parameters.bin"], "<f4")
    assert values[-8:].tolist() == [1.0] * 8  # the moving variance begins with ones
    again, _, _ = exported(two_tables, tmp_path / "again.graph")
    assert again.hash != made.hash  # Keras numbers the layers on


def test_the_same_model_gives_the_same_bytes(tmp_path: pathlib.Path) -> None:
    model = two_tables()
    first = export(model, tmp_path / "a.graph", rows=4, verbose=False)
    second = export(model, tmp_path / "b.graph", rows=4, verbose=False)
    assert first.hash == second.hash
    assert (tmp_path / "a.graph").read_bytes() == (tmp_path / "b.graph").read_bytes()


def test_the_model_is_left_as_it_was(tmp_path: pathlib.Path) -> None:
    model = two_tables()
    rows = [np.array([1, 2]), np.array([3, 4]), np.array([[0.5], [1.0]], np.float32)]
    before, weights = model.predict(rows, verbose=0), [w.copy() for w in model.get_weights()]
    export(model, tmp_path / "m.graph", rows=4, verbose=False)
    assert np.array_equal(before, model.predict(rows, verbose=0))
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    model.compile("sgd", "binary_crossentropy")
    model.fit(rows, np.array([0, 1]), verbose=0)


def test_lists_and_their_masks(tmp_path: pathlib.Path) -> None:
    _, manifest, _ = exported(masked_list, tmp_path / "m.graph")
    kinds = {i["kind"]: i for i in manifest["inputs"]}
    assert kinds["present"]["shape"] == [-1, 6]
    assert kinds["rows"]["shape"] == [-1, 6, 4]
    assert kinds["present"]["feature"] == kinds["rows"]["feature"] == "tags"


def test_two_lookups_of_one_table(tmp_path: pathlib.Path) -> None:
    _, manifest, _ = exported(shared_table, tmp_path / "m.graph")
    rows = [i for i in manifest["inputs"] if i["kind"] == "rows"]
    assert [i["feature"] for i in rows] == ["a", "b"]
    assert len({i["table"] for i in rows}) == 1
    assert manifest["tables"][0]["init"] == {"kind": "normal", "scale": 0.1}
    assert manifest["parameters"] == []


def test_logits_become_probabilities(tmp_path: pathlib.Path) -> None:
    model = logits()
    export(model, tmp_path / "m.graph", features={"x": ["u", "v"]}, verbose=False)
    manifest, parts = unpack((tmp_path / "m.graph").read_bytes())
    rows = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
    values = np.frombuffer(parts["parameters.bin"], "<f4")
    feeds, at = {next(i["tensor"] for i in manifest["inputs"] if i["kind"] == "numbers"): rows}, 0
    for p in manifest["parameters"]:
        n = int(np.prod(p["shape"]))
        feeds[p["tensor"]] = values[at : at + n].reshape(p["shape"])
        at += n
    with tf.Graph().as_default() as g:
        tf.import_graph_def(tf.compat.v1.GraphDef.FromString(parts["graph.pb"]), name="")
        with tf.compat.v1.Session(graph=g) as session:
            got = session.run(manifest["prediction"]["tensor"], feeds)
    want = 1 / (1 + np.exp(-model.predict(rows, verbose=0)))
    assert np.allclose(got, want, rtol=1e-5)


def test_dropout_draws_what_the_native_engine_draws() -> None:
    keys = np.array([0, 1, 2**63 + 12345, 2**64 - 1], np.uint64)
    got = kept(tf.constant(keys), 2, 7, 0.4).numpy()
    for i, key in enumerate(keys):
        for u in range(7):
            drawn = mix(int(key) ^ mix(3 << 32 | u)) >> 40
            assert got[i, u] == (np.float32(drawn) / np.float32(1 << 24) >= np.float32(0.4))


def random_layer() -> Any:
    x = keras.Input((3,), name="x")
    return compiled(x, sigmoid(L.GaussianNoise(0.5)(x)))


def looped() -> Any:
    tags = keras.Input((3,), name="tags", dtype="int32")
    return compiled(tags, sigmoid(L.LSTM(4)(L.Embedding(20, 4)(tags))))


def text() -> Any:
    x = keras.Input((), name="x", dtype="string")
    return compiled(x, sigmoid(L.Embedding(9, 3)(L.StringLookup(vocabulary=["a", "b"])(x))))


def computed_ids() -> Any:
    x = keras.Input((), name="x", dtype="int32")
    return compiled(x, sigmoid(L.Embedding(9, 3)(L.Lambda(lambda t: t % 9)(x))))


def used_twice() -> Any:
    x = keras.Input((1,), name="x")
    return compiled(x, sigmoid(L.Concatenate()([L.Flatten()(L.Embedding(9, 3)(x)), x])))


def over_embeddings(**options: Any) -> Make:
    def make() -> Any:
        x = keras.Input((), name="x", dtype="int32")
        return compiled(x, sigmoid(L.Embedding(9, 3, **options)(x)))

    return make


def over_numbers(build: Callable[[Any], Any], loss: Any = "binary_crossentropy") -> Make:
    def make() -> Any:
        x = keras.Input((3,), name="x")
        return compiled(x, build(x), loss)

    return make


def norm_twice() -> Any:
    x = keras.Input((3,), name="x")
    norm = L.BatchNormalization()
    return compiled(x, sigmoid(norm(L.Dense(3)(norm(x)))))


def subclassed() -> Any:
    class Own(keras.Model):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.dense = L.Dense(1)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    model = Own()
    model.compile(loss="mse")
    model(np.zeros((1, 3), np.float32))
    return model


def not_compiled() -> Any:
    x = keras.Input((3,), name="x")
    return keras.Model(x, sigmoid(x))


def two_outputs() -> Any:
    x = keras.Input((3,), name="x")
    return compiled(x, [sigmoid(x), sigmoid(x)])


def infinite() -> Any:
    x = keras.Input((3,), name="x")
    return compiled(x, L.Dense(1, kernel_initializer=keras.initializers.Constant(float("inf")))(x), "mse")


def python_op() -> Any:
    class Own(L.Layer):  # type: ignore[misc,name-defined]
        def call(self, x: Any) -> Any:
            return tf.reshape(tf.py_function(lambda t: t * 2, [x], tf.float32), [-1, 3])

        def compute_output_shape(self, shape: Any) -> Any:
            return shape

    x = keras.Input((3,), name="x")
    return compiled(x, sigmoid(Own()(x)))


def printing() -> Any:
    class Own(L.Layer):  # type: ignore[misc,name-defined]
        def call(self, x: Any) -> Any:
            with tf.control_dependencies([tf.print(tf.shape(x))]):
                return tf.identity(x)

    x = keras.Input((3,), name="x")
    return compiled(x, sigmoid(Own()(x)))


def batch_gather() -> Any:
    class Own(L.Layer):  # type: ignore[misc,name-defined]
        def call(self, x: Any) -> Any:
            return tf.gather(x, tf.zeros([tf.shape(x)[0], 2], tf.int32), batch_dims=1)

        def compute_output_shape(self, shape: Any) -> Any:
            return (shape[0], 2)

    x = keras.Input((3,), name="x")
    return compiled(x, sigmoid(L.Reshape((2,))(Own()(x))))


ABC = {"features": {"x": list("abc")}}
REFUSED: dict[str, tuple[Make, dict[str, Any], str]] = {
    "random layer": (random_layer, ABC, "draws random numbers.*Dropout"),
    "loop": (looped, {}, "unroll=True"),
    "text": (text, {}, "takes text.*StringLookup"),
    "computed ids": (computed_ids, {}, "looks up ids that the model computes.*hash, vocabulary"),
    "ids as numbers": (used_twice, {}, "looked up and used as a number"),
    "embedding regularizer": (over_embeddings(embeddings_regularizer="l2"), {}, "embeddings_regularizer.*optimizer.tables"),
    "embedding constraint": (over_embeddings(embeddings_constraint="non_neg"), {}, "embeddings_constraint"),
    "embedding initializer": (over_embeddings(embeddings_initializer="glorot_uniform"), {}, "GlorotUniform.*RandomUniform"),
    "frozen embedding": (over_embeddings(trainable=False), {}, "not trainable"),
    "constraint": (over_numbers(lambda x: L.Dense(1, kernel_constraint="non_neg")(x)), ABC, "constraint"),
    "spatial dropout": (
        over_numbers(lambda x: sigmoid(L.Flatten()(L.SpatialDropout1D(0.5)(L.Reshape((3, 1))(x))))),
        ABC,
        "random numbers",
    ),
    "noise shape": (over_numbers(lambda x: sigmoid(L.Dropout(0.5, noise_shape=(None, 1))(x))), ABC, "noise_shape"),
    "double": (over_numbers(lambda x: L.Dense(1, dtype="float64")(x)), ABC, "float64"),
    "norm twice": (norm_twice, ABC, "differ from Keras'.*statistic"),
    "subclassed": (subclassed, {}, "functional or Sequential"),
    "not compiled": (not_compiled, ABC, "compile it"),
    "two outputs": (two_outputs, ABC, "2 outputs"),
    "flat output": (over_numbers(lambda x: L.Reshape(())(L.Dense(1)(x))), ABC, "shape"),
    "reduction": (over_numbers(sigmoid, keras.losses.MeanSquaredError(reduction="sum")), ABC, "reduction 'sum'"),
    "scalar loss": (over_numbers(sigmoid, lambda y, p: keras.ops.mean((y - p) ** 2)), ABC, "one value for a batch"),
    "no label": (over_numbers(sigmoid, lambda _, p: keras.ops.mean(p**2, axis=-1)), ABC, "does not depend on the label"),
    "not finite": (infinite, ABC, "not finite"),
    "unused weight": (
        over_numbers(lambda x: sigmoid(L.Lambda(keras.ops.stop_gradient)(L.Dense(2)(x)))),
        ABC,
        "does not depend on variable",
    ),
    "python": (python_op, ABC, "PyFunc.*keras.ops"),
    "batch gather": (batch_gather, ABC, "gathers by batch.*one_hot"),
    "printing": (printing, ABC, "Print.*remove prints"),
    "feature names": (over_numbers(sigmoid), {}, "3 values.*1 feature names"),
    "unknown input": (over_numbers(sigmoid), {"features": {"y": "a"}}, "'y' that the model does not have.*x"),
    "label type": (over_numbers(sigmoid), ABC | {"label": "multiclass"}, "does not fit an output of width 1"),
    "prediction": (over_numbers(sigmoid), ABC | {"prediction": "classes"}, "use probability or value"),
    "no model": (lambda: "model.keras", {}, "no Keras model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str, tmp_path: pathlib.Path) -> None:
    make, options, want = REFUSED[name]
    model = make()
    with pytest.raises(tidemill.InvalidError, match=f"(?s){want}"):
        export(model, tmp_path / "m.graph", rows=8, verbose=False, **options)
    assert list(tmp_path.iterdir()) == []


def test_custom_labels(tmp_path: pathlib.Path) -> None:
    _, manifest, _ = exported(custom_loss, tmp_path / "m.graph", features={"x": ["u", "v"]}, label="binary", prediction="value")
    assert (manifest["label"]["type"], manifest["prediction"]["kind"]) == ("binary", "value")


def test_the_result_is_printed(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(two_tables(), tmp_path / "m.graph", rows=8)
    assert "the losses differ from Keras' by" in capsys.readouterr().out


def trained(weights: dict[str, Any], tables: dict[str, dict[int, list[float]]], hashed: dict[str, int]) -> tidemill.Snapshot:
    """A snapshot with such tensors, and rows of tables by id."""
    rows = {
        name: pa.table(
            {
                "id": pa.array(sorted(t), pa.uint64()),
                "weight": pa.array([t[i] for i in sorted(t)], pa.list_(pa.float32(), len(next(iter(t.values()))))),
            }
        )
        for name, t in tables.items()
    }
    spec = {"seed": 7, "features": [{"name": n, "column": n, "hash": {"buckets": b}} for n, b in hashed.items()]}
    return tidemill.Snapshot("j", 1, "m", (), 0, "", spec, rows, weights, {}, {}, {}, (), ())


def test_weights_go_back_into_the_model() -> None:
    model = two_tables()
    tensors = {v.path: np.full(v.shape, 0.25, np.float32) for v in model.variables if "seed" not in v.path}
    users = {id_of("user", f"u{i}", 50): [float(i)] * 4 for i in range(3)}
    items = {id_of("item", 9): [9.0, 8.0, 7.0]}
    snapshot = trained(tensors, {"users": users, "items": items}, {"user": 50, "item": 0})
    load_weights(model, snapshot, {"user": ["u2", None, "u0"], "item": [9, 10]})
    table = keras.ops.convert_to_numpy(model.get_layer("users").embeddings)
    assert table[0].tolist() == [2.0] * 4
    assert table[2].tolist() == [0.0] * 4
    assert np.abs(table[1]).max() <= 0.05  # as it was
    other = keras.ops.convert_to_numpy(model.get_layer("items").embeddings)
    assert other[0].tolist() == [9.0, 8.0, 7.0]
    begun = first_row({"kind": "uniform", "scale": 0.05}, 3, 7, "items", id_of("item", 10))
    assert other[1].tolist() == begun.tolist()
    dense = next(v for v in model.trainable_variables if v.path.endswith("kernel"))
    assert (keras.ops.convert_to_numpy(dense) == 0.25).all()


def test_weights_of_another_model() -> None:
    model = two_tables()
    good = {v.path: np.zeros(v.shape, np.float32) for v in model.variables if "seed" not in v.path}
    with pytest.raises(tidemill.InvalidError, match=r"no tensor .*kernel"):
        load_weights(model, trained({}, {}, {}))
    with pytest.raises(tidemill.InvalidError, match="shape"):
        load_weights(model, trained({k: np.zeros(v.shape[:-1], np.float32) for k, v in good.items()}, {}, {}))
    with pytest.raises(tidemill.InvalidError, match="no table 'users'"):
        load_weights(model, trained(good, {}, {"user": 0}), {"user": [1]})
    with pytest.raises(tidemill.InvalidError, match="'age' that is not looked up"):
        load_weights(model, trained(good, {}, {}), {"age": [1]})
    with pytest.raises(tidemill.InvalidError, match="has 100 rows"):
        load_weights(model, trained(good, {}, {"user": 0}), {"user": range(101)})


def test_rows_begin_as_on_the_server() -> None:
    row = 12345678901234567890
    got = {k: first_row({"kind": k, "scale": 0.05}, 3, 7, "users", row) for k in ("uniform", "normal")}
    assert np.allclose(got["uniform"], [-0.027977724, -0.032986727, 0.03427313], rtol=1e-6)
    assert np.allclose(got["normal"], [-0.028594373, -0.08733299, -0.028953988], rtol=1e-5)
