"""Keras files: written here as Keras 2 does, by Keras 3 itself where it is installed, and a real one."""

from __future__ import annotations

import io
import json
import random
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("h5py")
import h5py

from mobilenets.arch import arch_named, plan
from mobilenets.errors import ConvertError, MissingExtraError
from mobilenets.nn.convert import keras, tflite
from mobilenets.nn.convert.assemble import assemble
from mobilenets.nn.convert.identify import identify
from mobilenets.nn.convert.labels import classes_of
from mobilenets.nn.convert.layers import Array, Source
from mobilenets.nn.convert.proof import _logits as logits
from mobilenets.nn.network import Network, build, from_checkpoint
from tests.nn.convert.keras_writer import SIDE, WHOLE_SIDE, Writer

Lively = Callable[[Network, Array], Network]


def batch_for(network: Network, count: int) -> Array:
    """Draw pictures between -1 and 1."""
    layout = network.plan
    shape = (count, layout.in_channels, *layout.resolution)
    return (np.random.default_rng(0).integers(0, 256, shape) / 127.5 - 1).astype(np.float32)


def random_network(lively: Lively, name: str, width: float = 0.5, **changes: Any) -> Network:
    arch = replace(arch_named(name), padding="same", bn_eps=1e-3, **changes)
    network = build(plan(arch, width=width, resolution=SIDE, classes=7))
    return lively(network, batch_for(network, 4))


def network_of(source: Source) -> Network:
    classes = classes_of(source.classes, source.labels)
    return from_checkpoint(assemble(source, identify(source), classes, origin="a test"))


def check(source: Source, network: Network) -> None:
    batch = batch_for(network, 3)
    expected = logits(network, batch)
    assert np.ptp(expected, axis=0).max() > 0.2  # it does depend on the picture
    assert np.abs(logits(network_of(source), batch) - expected).max() < 1e-4


NETWORKS = (
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "mobilenet_v3_small_minimalistic",
)


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_model_of_keras_2(name: str, tmp_path: Path, lively: Lively) -> None:
    network = random_network(lively, name, 0.75)
    writer = Writer(network)
    source = keras.read(writer.write(tmp_path / "model.h5", writer.describe()))
    found = identify(source)
    assert (found.arch.name, found.width, found.resolution) == (name, 0.75, (SIDE, SIDE))
    assert (found.arch.padding, found.arch.bn_eps) == ("same", 1e-3)
    assert (source.kind, source.batch_norm, source.notes) == ("Keras 2", "trained", ())
    assert source.mean == pytest.approx([0.5])
    assert source.std == pytest.approx([0.5])
    check(source, network)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_only_of_keras_2(name: str, tmp_path: Path, lively: Lively) -> None:
    """The format of the published Keras Applications weights."""
    network = random_network(lively, name, 0.75)
    writer = Writer(network)
    writer.describe()
    source = keras.read(writer.write(tmp_path / "weights.h5", None))
    assert (source.kind, source.resolution, source.padding) == ("Keras, weights only", None, "same")
    assert "weights only" in source.notes[0]
    found = identify(source)
    assert (found.arch.name, found.width) == (name, 0.75)
    made = assemble(source, found, classes_of(7, None), origin="a test", resolution=(SIDE, SIDE))
    fitted = build(replace(network.plan, arch=replace(found.arch, small_image_strides=True)))
    fitted.load_state_dict(from_checkpoint(made).state_dict())
    batch = batch_for(network, 2)
    assert np.abs(logits(fitted.eval(), batch) - logits(network, batch)).max() < 1e-4


def test_a_missing_shortcut_is_seen(tmp_path: Path, lively: Lively) -> None:
    network = random_network(lively, "mobilenet_v2", 0.35, shortcut="none")
    writer = Writer(network)
    source = keras.read(writer.write(tmp_path / "model.h5", writer.describe()))
    assert identify(source).arch.shortcut == "none"
    check(source, network)


def test_names_split_over_several_attributes(tmp_path: Path, lively: Lively) -> None:
    """HDF5 limits an attribute to 64 KiB; Keras splits what is longer."""
    network = random_network(lively, "mobilenet_v1", 0.1)
    writer = Writer(network)
    path = writer.write(tmp_path / "model.h5", writer.describe())
    with h5py.File(path, "a") as file:
        group = file["model_weights"]
        names = list(group.attrs["layer_names"])
        del group.attrs["layer_names"]
        group.attrs["layer_names0"], group.attrs["layer_names1"] = names[:40], names[40:]
    check(keras.read(path), network)


class TestRefused:
    @pytest.fixture
    def writer(self, lively: Lively) -> Writer:
        return Writer(random_network(lively, "mobilenet_v3_small", 0.75))

    def test_without_the_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "h5py", None)
        with pytest.raises(MissingExtraError, match="h5py is needed"):
            keras.read(tmp_path / "model.h5")

    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(ConvertError, match="cannot be read"):
            keras.read(tmp_path / "none.h5")

    def test_something_else(self, tmp_path: Path) -> None:
        path = tmp_path / "model.h5"
        path.write_bytes(b"something else")
        with pytest.raises(ConvertError, match="is not a Keras file"):
            keras.read(path)
        with h5py.File(path, "w") as file:
            file["numbers"] = np.zeros(3)
        with pytest.raises(ConvertError, match="not one that Keras saved"):
            keras.read(path)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("notes.txt", "nothing")
        with pytest.raises(ConvertError, match="not one that Keras saved"):
            keras.read(path)

    def test_code(self, writer: Writer, tmp_path: Path) -> None:
        """A Lambda layer carries a pickled function: it is refused before anything looks at it."""
        described = writer.describe()
        described["config"]["layers"][-1] |= {"class_name": "Lambda"}
        with pytest.raises(ConvertError, match="classifier is a Lambda layer, that is code"):
            keras.read(writer.write(tmp_path / "model.h5", described))

    @pytest.mark.parametrize("name", ["swish", "hard_sigmoid"])
    def test_another_activation(self, name: str, writer: Writer, tmp_path: Path) -> None:
        """Keras 2's hard_sigmoid is 0.2 x + 0.5; x / 6 + 0.5 in Keras 3 and in MobileNetV3."""
        described = writer.describe()
        layer = next(each for each in described["config"]["layers"] if each["name"] == "block_1_depthwise_BN_relu")
        layer |= {"class_name": "Activation"}
        layer["config"]["activation"] = name
        with pytest.raises(ConvertError, match=rf"{name} of .* is not understood"):
            keras.read(writer.write(tmp_path / "model.h5", described))

    def test_a_layer_used_twice(self, writer: Writer, tmp_path: Path) -> None:
        described = writer.describe()
        layer = next(each for each in described["config"]["layers"] if each["class_name"] == "Conv2D")
        layer["inbound_nodes"] *= 2
        with pytest.raises(ConvertError, match="stem is used 2 times"):
            keras.read(writer.write(tmp_path / "model.h5", described))

    def test_a_model_of_code(self, writer: Writer, tmp_path: Path) -> None:
        with pytest.raises(ConvertError, match="is a MyModel, whose order"):
            keras.read(writer.write(tmp_path / "model.h5", {"class_name": "MyModel", "config": {}}))

    def test_weights_missing(self, writer: Writer, tmp_path: Path) -> None:
        described = writer.describe()
        writer.weights["block_1_depthwise"] = []
        with pytest.raises(ConvertError, match="block_1_depthwise has 0 arrays"):
            keras.read(writer.write(tmp_path / "model.h5", described))

    def test_links_are_not_followed(self, writer: Writer, tmp_path: Path) -> None:
        path = writer.write(tmp_path / "model.h5", writer.describe())
        with h5py.File(path, "a") as file:
            del file["model_weights/stem"]
            file["model_weights/stem"] = h5py.ExternalLink("/etc/passwd", "/")
        with pytest.raises(ConvertError, match="a link to elsewhere"):
            keras.read(path)

    def test_truncated_and_scrambled(self, writer: Writer, tmp_path: Path) -> None:
        path = writer.write(tmp_path / "model.h5", writer.describe())
        data, drawn = path.read_bytes(), random.Random(0)
        for length in np.linspace(0, len(data) - 1, 12).astype(int):
            path.write_bytes(data[:length])
            with pytest.raises(ConvertError, match="damaged or truncated"):
                keras.read(path)
        for _ in range(20):
            scrambled = bytearray(data)
            for _ in range(drawn.choice((1, 10, 300))):
                scrambled[drawn.randrange(len(data))] = drawn.choice((0, 1, 127, 255))
            path.write_bytes(scrambled)
            refused = ""
            try:
                assert keras.read(path).layers
            except ConvertError as error:
                refused = str(error)
            assert "\n" not in refused

    @pytest.mark.parametrize(
        "broken", ['{"class_name": "Functional"}', '{"class_name": "Sequential", "config": []}', "[]"]
    )
    def test_damaged_description(self, broken: str, writer: Writer, tmp_path: Path) -> None:
        writer.describe()
        with pytest.raises(ConvertError, match="damaged"):
            keras.read(writer.write(tmp_path / "model.h5", json.loads(broken)))


def test_real_visual_wake_words(shared_data: Path) -> None:
    """The same network as HDF5 and as TFLite, which has BatchNorm folded in. Measured here: 7e-7 of 3."""
    source = keras.read(shared_data / "weights" / "vww_96.h5")
    assert (source.labels, source.mean, source.std) == (("non_person", "person"), (0.0,), (1.0,))
    assert (source.kind, source.resolution, source.batch_norm) == ("Keras 2", (96, 96), "trained")
    network = network_of(source)
    layout = network.plan
    assert (layout.arch.name, layout.width, layout.arch.activation) == ("mobilenet_v1", 0.25, "relu")
    batch = np.asarray((batch_for(network, 8) + 1) / 2, np.float32)
    twin = tflite.read(shared_data / "weights" / "vww_96_float.tflite")
    assert twin.reference is not None
    assert np.abs(logits(network, batch) - twin.reference(batch)).max() < 1e-4


# Keras itself, on PyTorch: 3 seconds to import, and the only proof for the layout of its newest files.


@pytest.fixture(scope="module")
def keras_3(tmp_path_factory: pytest.TempPathFactory) -> Any:
    settings = {"KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path_factory.mktemp("keras"))}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in settings.items():
            patch.setenv(name, value)
        return pytest.importorskip("keras")


def fill(model: Any) -> None:
    """Draw weights with which pictures matter to the last layer."""
    drawn = np.random.default_rng(0)
    for layer in model._flatten_layers():
        arrays = layer.get_weights()
        if len(arrays) == 4:
            size = arrays[0].shape
            uniform, normal = drawn.uniform(0.5, 1.5, (2, *size)), drawn.normal(0, 0.3, (2, *size))
            layer.set_weights([uniform[0], normal[0], normal[1], uniform[1]])
        elif arrays:
            kernel = arrays[0]
            inputs = kernel.size / kernel.shape[-2 if kernel.shape[-1] == 1 else -1]
            arrays[0] = drawn.normal(0, (1.6 / inputs) ** 0.5, kernel.shape)
            layer.set_weights([arrays[0], *(drawn.normal(0, 0.2, bias.shape) for bias in arrays[1:])])


def applications(keras_3: Any, name: str) -> Any:
    shape = (WHOLE_SIDE, WHOLE_SIDE, 3)
    options = {"weights": None, "input_shape": shape}
    whole = options | {"classes": 7, "classifier_activation": None}
    make = keras_3.applications
    if name == "V1":
        return make.MobileNet(alpha=0.5, **whole)
    if name == "V2":
        return make.MobileNetV2(alpha=0.75, **whole)
    if name == "V3 small":
        return make.MobileNetV3Small(**whole)
    if name == "V3 large minimalistic":
        return make.MobileNetV3Large(alpha=0.75, minimalistic=True, **whole)
    if name == "V3 large":
        return make.MobileNetV3Large(alpha=0.75, **whole)
    layers = keras_3.layers
    base = make.MobileNetV2(include_top=False, alpha=0.35, **options)
    if name == "sequential with V2 inside":
        parts = [layers.RandomFlip(), layers.Rescaling(1 / 127.5, offset=-1), base, layers.GlobalAveragePooling2D()]
        return keras_3.Sequential([keras_3.Input(shape), *parts, layers.Dropout(0.2), layers.Dense(5)])
    picture = keras_3.Input(shape)
    features = layers.GlobalAveragePooling2D()(base(layers.Rescaling(1 / 255)(picture), training=False))
    return keras_3.Model(picture, layers.Dense(3, activation="softmax")(features))


@pytest.mark.parametrize(
    ("name", "table", "width", "formats"),
    [
        ("V1", "mobilenet_v1", 0.5, (".keras", ".h5", ".weights.h5")),
        pytest.param("V2", "mobilenet_v2", 0.75, (".keras", ".h5", ".weights.h5"), marks=pytest.mark.slow),
        ("V3 small", "mobilenet_v3_small", 1.0, (".keras", ".h5", ".weights.h5")),
        pytest.param("V3 large", "mobilenet_v3_large", 0.75, (".keras", ".h5", ".weights.h5"), marks=pytest.mark.slow),
        ("V3 large minimalistic", "mobilenet_v3_large_minimalistic", 0.75, (".keras", ".weights.h5")),
        ("sequential with V2 inside", "mobilenet_v2", 0.35, (".keras", ".h5", ".weights.h5")),
        (
            "functional with V2 inside",
            "mobilenet_v2",
            0.35,
            (".keras", ".h5"),
        ),  # without its own rescaling it is another
    ],
)
def test_keras_applications(
    name: str, table: str, width: float, formats: tuple[str, ...], keras_3: Any, tmp_path: Path
) -> None:
    """What Keras 3 builds and saves, and what it computes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = applications(keras_3, name)
        fill(model)
        picture = np.random.default_rng(0).integers(0, 256, (2, WHOLE_SIDE, WHOLE_SIDE, 3)).astype(np.float32)
        rescales = any(type(layer).__name__ == "Rescaling" for layer in model._flatten_layers())
        fed = picture if rescales else picture / 127.5 - 1
        with torch.no_grad():
            expected = model(torch.from_numpy(fed), training=False).numpy()
    assert np.ptp(expected, axis=0).max() > 0.01
    for suffix in formats:
        path = tmp_path / f"model{suffix}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (model.save_weights if suffix == ".weights.h5" else model.save)(str(path))
        source = keras.read(path)
        found = identify(replace(source, resolution=(WHOLE_SIDE, WHOLE_SIDE)))
        assert (found.arch.name, found.width, found.arch.bn_eps) == (table, width, 1e-3)
        assert source.mean is not None
        assert source.std is not None
        batch = (picture.transpose(0, 3, 1, 2) / 255 - source.mean[0]) / source.std[0]
        made = assemble(source, found, classes_of(source.classes, None), origin="a test", resolution=found.resolution)
        answer = logits(from_checkpoint(made), batch.astype(np.float32))
        if name.startswith("functional"):
            answer = torch.softmax(torch.from_numpy(answer), 1).numpy()
        assert np.abs(answer - expected).max() < 1e-4 * max(1.0, float(np.abs(expected).max())), suffix


def test_older_files_without_the_layers_names(keras_3: Any, tmp_path: Path) -> None:
    """Keras 3.0 stored arrays under counted classes only: the description's order tells whose they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = applications(keras_3, "sequential with V2 inside")
        fill(model)
        path = tmp_path / "model.keras"
        model.save(str(path))
    before = keras.read(path)
    with zipfile.ZipFile(path) as archive:
        config, data = archive.read("config.json"), io.BytesIO(archive.read("model.weights.h5"))

    def forget(_: str, item: Any) -> None:
        item.attrs.pop("name", None)

    with h5py.File(data, "a") as file:
        file.visititems(forget)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", data.getvalue())
    after = keras.read(path)
    assert [layer.name for layer in after.layers] == [layer.name for layer in before.layers]
    assert all(np.array_equal(a.weight, b.weight) for a, b in zip(after.layers, before.layers, strict=True))
