from __future__ import annotations

from mobilenets.arch import CLASSIFIERS
from mobilenets.bench.configuration import PRECISIONS
from mobilenets.bench.published import SERIES, published


def test_the_paper_and_its_repository_are_found_for_v2() -> None:
    found = {
        (each.device, each.source.partition(" ")[0]): each.ms for each in published("mobilenet_v2", 1.0, (224, 224))
    }
    assert found["Pixel 1, one large core", "arXiv:1801.04381v4,"] == 75
    assert found["Pixel 1 CPU", "tensorflow/models"] == 73.8
    assert found["i9-10940X, torch 2.4 compiled", "huggingface/pytorch-image-models"] == 5.299


def test_other_sizes_have_their_own_figures_or_none() -> None:
    assert [each.ms for each in published("mobilenet_v2", 0.35, (96, 96)) if each.device == "Pixel 1 CPU"] == [4.5]
    assert published("mobilenet_v2", 1.0, (96, 224)) == ()
    assert published("mobilenet_v2", 0.123, (224, 224)) == ()
    assert published("mobilenet_v2_cifar", 1.0, (32, 32)) == ()


def test_series_are_of_our_networks_and_plausible() -> None:
    assert len({(each.arch, each.precision, each.device, each.source) for each in SERIES}) == len(SERIES)
    for each in SERIES:
        assert each.arch in CLASSIFIERS
        assert each.precision in PRECISIONS
        assert each.source
        assert all(0.1 < ms < 10_000 for ms in each.ms.values())
