"""MobileNets, from the papers' tables to a model on your device.

Every public name lives in a module of its own part of the package and is brought in when it is first used, so that
`import mobilenets` costs next to nothing and never imports torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilenets.arch import ARCHITECTURES as ARCHITECTURES
    from mobilenets.arch import Arch as Arch
    from mobilenets.arch import Cost as Cost
    from mobilenets.arch import Op as Op
    from mobilenets.arch import Plan as Plan
    from mobilenets.bench import bench as bench
    from mobilenets.bench.result import BenchResult as BenchResult
    from mobilenets.checkpoint import Card as Card
    from mobilenets.checkpoint import Checkpoint as Checkpoint
    from mobilenets.data import Data as Data
    from mobilenets.data import open_data as open_data
    from mobilenets.detections import Detection as Detection
    from mobilenets.detections import DetectionReport as DetectionReport
    from mobilenets.detections import Detections as Detections
    from mobilenets.diagnose import DiagnoseResult as DiagnoseResult
    from mobilenets.diagnose import diagnose as diagnose
    from mobilenets.errors import CheckpointError as CheckpointError
    from mobilenets.errors import ConvertError as ConvertError
    from mobilenets.errors import InputError as InputError
    from mobilenets.errors import MissingExtraError as MissingExtraError
    from mobilenets.errors import MobileNetsError as MobileNetsError
    from mobilenets.errors import ParityError as ParityError
    from mobilenets.errors import WeightsError as WeightsError
    from mobilenets.evaluate import evaluate as evaluate
    from mobilenets.export import ExportResult as ExportResult
    from mobilenets.export import export as export
    from mobilenets.fit import FitResult as FitResult
    from mobilenets.fit import fit as fit
    from mobilenets.image import Preprocess as Preprocess
    from mobilenets.nn.convert import convert as convert
    from mobilenets.predict import classify as classify
    from mobilenets.predict import detect as detect
    from mobilenets.predict import predict as predict
    from mobilenets.prune import PruneResult as PruneResult
    from mobilenets.prune import prune as prune
    from mobilenets.quantize import QuantizeResult as QuantizeResult
    from mobilenets.quantize import quantize as quantize
    from mobilenets.recipe import RECIPES as RECIPES
    from mobilenets.recipe import Recipe as Recipe
    from mobilenets.reproduce import reproduce as reproduce
    from mobilenets.reproduce.outcome import ReproduceResult as ReproduceResult
    from mobilenets.results import Classification as Classification
    from mobilenets.results import ClassReport as ClassReport
    from mobilenets.results import ConvertResult as ConvertResult
    from mobilenets.results import Prediction as Prediction
    from mobilenets.results import Predictions as Predictions
    from mobilenets.results import Report as Report
    from mobilenets.results import TrainResult as TrainResult
    from mobilenets.runtime import Predictor as Predictor
    from mobilenets.runtime import load as load
    from mobilenets.serve import ServeResult as ServeResult
    from mobilenets.serve import serve as serve
    from mobilenets.show import ShowResult as ShowResult
    from mobilenets.show import show as show
    from mobilenets.train import train as train
    from mobilenets.tune import TuneResult as TuneResult
    from mobilenets.tune import tune as tune

__version__ = "0.1.0"

__all__ = [
    "ARCHITECTURES",
    "RECIPES",
    "Arch",
    "BenchResult",
    "Card",
    "Checkpoint",
    "CheckpointError",
    "ClassReport",
    "Classification",
    "ConvertError",
    "ConvertResult",
    "Cost",
    "Data",
    "Detection",
    "DetectionReport",
    "Detections",
    "DiagnoseResult",
    "ExportResult",
    "FitResult",
    "InputError",
    "MissingExtraError",
    "MobileNetsError",
    "Op",
    "ParityError",
    "Plan",
    "Prediction",
    "Predictions",
    "Predictor",
    "Preprocess",
    "PruneResult",
    "QuantizeResult",
    "Recipe",
    "Report",
    "ReproduceResult",
    "ServeResult",
    "ShowResult",
    "TrainResult",
    "TuneResult",
    "WeightsError",
    "bench",
    "classify",
    "convert",
    "detect",
    "diagnose",
    "evaluate",
    "export",
    "fit",
    "load",
    "open_data",
    "predict",
    "prune",
    "quantize",
    "reproduce",
    "serve",
    "show",
    "train",
    "tune",
]

_HOMES = {
    "mobilenets.arch": (
        "ARCHITECTURES",
        "Arch",
        "Cost",
        "Op",
        "Plan",
    ),
    "mobilenets.bench": ("bench",),
    "mobilenets.bench.result": ("BenchResult",),
    "mobilenets.checkpoint": (
        "Card",
        "Checkpoint",
    ),
    "mobilenets.data": (
        "Data",
        "open_data",
    ),
    "mobilenets.detections": (
        "Detection",
        "DetectionReport",
        "Detections",
    ),
    "mobilenets.diagnose": (
        "DiagnoseResult",
        "diagnose",
    ),
    "mobilenets.errors": (
        "CheckpointError",
        "ConvertError",
        "InputError",
        "MissingExtraError",
        "MobileNetsError",
        "ParityError",
        "WeightsError",
    ),
    "mobilenets.evaluate": ("evaluate",),
    "mobilenets.export": (
        "ExportResult",
        "export",
    ),
    "mobilenets.fit": (
        "FitResult",
        "fit",
    ),
    "mobilenets.image": ("Preprocess",),
    "mobilenets.nn.convert": ("convert",),
    "mobilenets.predict": (
        "classify",
        "detect",
        "predict",
    ),
    "mobilenets.prune": (
        "PruneResult",
        "prune",
    ),
    "mobilenets.quantize": (
        "QuantizeResult",
        "quantize",
    ),
    "mobilenets.recipe": (
        "RECIPES",
        "Recipe",
    ),
    "mobilenets.reproduce": ("reproduce",),
    "mobilenets.reproduce.outcome": ("ReproduceResult",),
    "mobilenets.results": (
        "ClassReport",
        "Classification",
        "ConvertResult",
        "Prediction",
        "Predictions",
        "Report",
        "TrainResult",
    ),
    "mobilenets.runtime": (
        "Predictor",
        "load",
    ),
    "mobilenets.serve": (
        "ServeResult",
        "serve",
    ),
    "mobilenets.show": (
        "ShowResult",
        "show",
    ),
    "mobilenets.train": ("train",),
    "mobilenets.tune": ("TuneResult", "tune"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # to a type checker, a module with __getattr__ has every attribute

    def __getattr__(name: str) -> object:
        if name not in _HOME_OF:
            raise AttributeError(f"module 'mobilenets' has no attribute {name!r}")
        value = getattr(import_module(_HOME_OF[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keep `mobilenets.show` the function when somebody imports the module `mobilenets.show`.

    The import system binds every sub-module to its parent. Where a verb has its module's name, the verb is meant.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
