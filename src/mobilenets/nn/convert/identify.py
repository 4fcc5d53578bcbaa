"""Which table, at which width, somebody's layers are of: by their shapes, then by what else the file says.

Shapes decide on table and width; they say nothing of strides, padding, activations and BatchNorm's eps. Where the file
does, the table is changed to agree, or the file is refused: a table that computes something else is worth nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product, zip_longest
from statistics import median
from typing import Any, Literal, get_args

from mobilenets.arch import Arch, Op, Plan, plan
from mobilenets.arch.mobilenet import Activation, Bneck, Conv, InvertedResidual, Row, Separable
from mobilenets.errors import ConvertError, InputError
from mobilenets.nn.convert.layers import Layer, Source, Step, bare_shape

# Published widths; of several with the same channels the first is taken.
WIDTHS = (1.0, 0.75, 0.5, 0.25, 0.35, 1.4, 1.3, 1.25, 1.5, 2.0, 1.1, 1.2, 0.1)

Shapes = tuple[tuple[int, ...], ...]


def identify(source: Source, *, name: str = "", architecture: Arch | None = None, width: float | None = None) -> Plan:
    """Find the plan whose layers the source has: its table, dressed as the source says, its width, its classes.

    Args:
        source: what a reader returned.
        name: of the file, for messages.
        architecture: look no further than this table. Its padding, activation and eps are the user's word and stay,
            unless the file itself contradicts them.
        width: look no further than this width.

    Raises:
        ConvertError: the shapes are of no table; names the nearest and the first layers that differ from it. Or the
            file has strides, paddings or activations that no table can express.
    """
    tables = source.tables if architecture is None else (architecture,)
    wanted = tuple(layer.shape for layer in source.layers)
    nearest: tuple[float, Plan] | None = None
    matches: list[Plan] = []
    for arch in tables:
        for layout in _layouts(source, arch, width):
            score = _score(wanted, shapes(layout))
            if score == 0:
                matches.append(layout)
                break
            if nearest is None or score < nearest[0]:
                nearest = (score, layout)
    if not matches:
        raise ConvertError(_refusal(source, None if nearest is None else nearest[1], name))
    # Of tables with the same shapes, the one whose strides the source has, printed so rather than by the rule for small
    # pictures; then one at its own width (EfficientNet-Lite2 is Lite1 at width 1.1).
    best = min(
        matches,
        key=lambda layout: (len(_stride_differences(source, layout)), bool(layout.notes), layout.width != 1.0),
    )
    return _dress(source, best, name)


def shapes(layout: Plan) -> Shapes:
    """Return the weight shapes of a plan's layers, in order, without kernels of 1x1."""
    return tuple(op_shape(op) for op in weighted(layout))


def weighted(layout: Plan) -> tuple[Op, ...]:
    """Return the operations that have weights, in order."""
    return tuple(op for op in layout.ops if op.kind in ("conv", "linear"))


def op_shape(op: Op) -> tuple[int, ...]:
    """Return the shape of an operation's weight, (out, in) for 1x1 and fully connected alike."""
    return bare_shape((op.out[0], op.source_shape[0] // op.groups, op.kernel, op.kernel))


def _layouts(source: Source, arch: Arch, width: float | None) -> Iterator[Plan]:
    """Lay out one table at every width worth a try: the published ones, then what the source's channels suggest."""
    tried: set[float] = set()

    def at(widths: Iterable[float]) -> Iterator[Plan]:
        for each in widths:
            if each not in tried:
                tried.add(each)
                try:
                    yield _layout(source, arch, each)
                except InputError:  # an absurd width or number of classes
                    continue

    if width is not None:
        yield from at((width,))
        return
    yield from at(WIDTHS)
    unscaled = shapes(_layout(source, arch, 1.0))
    if len(unscaled) == len(source.layers):
        ratios = Counter(
            round(layer.shape[0] / shape[0], 4) for layer, shape in zip(source.layers, unscaled, strict=True)
        )
        yield from at(ratio for ratio, _ in ratios.most_common(8))
        middle = round(100 * median(ratios.elements()))
        yield from at(percent / 100 for percent in range(middle - 6, middle + 7))


def _layout(source: Source, arch: Arch, width: float) -> Plan:
    resolution = source.resolution
    return plan(arch, width=width, resolution=resolution, classes=source.classes, in_channels=source.in_channels)


def _score(wanted: Shapes, found: Shapes) -> float:
    """Say how far apart two lists of shapes are: 0 is equal."""
    pairs = zip_longest(wanted, found)
    return sum(1.0 if a is None or b is None or a[1:] != b[1:] else 0.9 for a, b in pairs if a != b)


def _refusal(source: Source, nearest: Plan | None, name: str) -> str:
    where = f"{name}: " if name else ""
    if nearest is None:
        return f"{where}{source.kind}: no table to compare with: name one with --architecture"
    differences = [
        f"{_of_layer(layer)} where {_of_op(op)}"
        for layer, op in zip_longest(source.layers, weighted(nearest))
        if layer is None or op is None or layer.shape != op_shape(op)
    ]
    return (
        f"{where}{source.kind} of {len(source.layers)} layers, not one of the architectures known here; the nearest is "
        f"{nearest.arch.name} at width {nearest.width:g}, and the first that do not match are "
        + "; ".join(differences[:3])
    )


def _of_layer(layer: Layer | None) -> str:
    return "no layer" if layer is None else f"{layer.name} {layer.shape}"


def _of_op(op: Op | None) -> str:
    return "there is none" if op is None else f"{op.name} is {op_shape(op)}"


def _dress(source: Source, layout: Plan, name: str) -> Plan:
    """Give the table the source's strides, padding, eps and activations."""
    where = f"{name}: " if name else ""
    arch = layout.arch
    if _stride_differences(source, layout):
        layout = _restride(source, layout, where)
        arch = layout.arch
    padding = source.padding or _one({layer.padding for layer in source.layers} - {None}, f"{where}paddings")
    if padding is not None:
        arch = replace(arch, padding=padding)
    eps = source.bn_eps or min((layer.norm.eps for layer in source.layers if layer.norm and layer.norm.eps), default=0)
    if eps:
        arch = replace(arch, bn_eps=float(eps))
    if source.activation is not None:
        arch = replace(arch, activation=source.activation)
    return _connect(source, _activate(source, _layout(source, arch, layout.width), where), where)


def _one(values: set[Any], what: str) -> Any:
    """Return the only value there is, None where there is none."""
    if len(values) > 1:
        raise ConvertError(f"{what} are mixed ({', '.join(sorted(values))}): no table can express that")
    return next(iter(values), None)


def _stride_differences(source: Source, layout: Plan) -> list[str]:
    return [
        f"{layer.name} has stride {layer.stride} where {op.name} has {op.stride}"
        for layer, op in zip(source.layers, weighted(layout), strict=True)
        if layer.stride is not None and layer.stride != op.stride
    ]


def _restride(source: Source, layout: Plan, where: str) -> Plan:
    """Return the plan with the source's strides written into its table, every block a row of its own."""
    strides: dict[int, list[int]] = {}  # by row, one for each block: its depthwise or its only convolution's
    for layer, op in zip(source.layers, weighted(layout), strict=True):
        if op.depthwise or (op.kind == "conv" and not op.block):
            strides.setdefault(op.row, []).append(layer.stride or op.stride)
    rows: list[Row] = []
    for index, row in enumerate(layout.arch.rows):
        if isinstance(row, Separable | InvertedResidual):
            rows += [replace(row, n=1, s=stride) for stride in strides[index]]
        elif isinstance(row, Conv | Bneck):
            rows.append(replace(row, s=strides[index][0]))
        else:
            rows.append(row)
    table_is_right = replace(layout.arch, small_image_strides=False)
    if _stride_differences(source, _layout(source, table_is_right, layout.width)):
        arch = replace(table_is_right, rows=tuple(rows))
    else:  # only the rule for small pictures was at odds
        arch = table_is_right
    changed = _layout(source, arch, layout.width)
    differences = _stride_differences(source, changed)
    if differences:
        raise ConvertError(f"{where}{differences[0]}: no table can express that")
    return changed


def _activate(source: Source, layout: Plan, where: str) -> Plan:
    """Return the plan with the source's activations, as far as it tells them."""
    if not _activation_differences(source, layout):
        return layout
    arch = layout.arch
    found = {layer.activation for layer in source.layers}
    told = [activation for activation in get_args(Activation) if activation in found]
    for own, bottleneck, gate, late in product(
        (arch.activation, *told),
        (arch.bottleneck_activation, None, *told),
        (arch.se.gate, *told),
        (arch.se.before_activation, not arch.se.before_activation),
    ):
        se = replace(arch.se, gate=gate, before_activation=late)
        variant = replace(arch, activation=own, bottleneck_activation=bottleneck, se=se)
        changed = _layout(source, variant, layout.width)
        if not _activation_differences(source, changed):
            return changed
    raise ConvertError(f"{where}{_activation_differences(source, layout)[0]}: no table can express that")


def steps(layout: Plan) -> tuple[Step, ...]:
    """Return how a plan's operations hang together."""
    place = {"input": -1} | {op.name: index for index, op in enumerate(layout.ops)}
    return tuple(
        (
            op.kind if op.kind in ("pool", "add", "scale") else "weights",
            tuple(sorted(place[name] for name in op.sources)),
            op.activation if op.kind == "scale" else None,
        )
        for op in layout.ops
    )


def _connect(source: Source, layout: Plan, where: str) -> Plan:
    """Return the plan with the source's shortcuts, where the file says how its layers hang together."""
    if source.steps is None or source.steps == steps(layout):
        return layout
    shortcuts: tuple[Literal["bottleneck", "expansion", "none"], ...] = ("bottleneck", "expansion", "none")
    for shortcut in shortcuts:
        changed = _layout(source, replace(layout.arch, shortcut=shortcut), layout.width)
        if source.steps == steps(changed):
            return changed
    pairs = enumerate(zip_longest(source.steps, steps(layout)))
    index, (found, expected) = next((index, pair) for index, pair in pairs if pair[0] != pair[1])
    raise ConvertError(
        f"{where}its layers have the shapes of {layout.arch.name} at width {layout.width:g} and hang together "
        f"otherwise: step {index + 1} is {_of_step(found)} where {_of_step(expected)} belongs"
    )


def _of_step(step: Step | None) -> str:
    if step is None:
        return "nothing"
    what, sources, activation = step
    return f"{what}{f' then {activation}' if activation else ''} on step {' and '.join(str(i + 1) for i in sources)}"


def _activation_differences(source: Source, layout: Plan) -> list[str]:
    return [
        f"{layer.name} is followed by {layer.activation or 'no activation'} where {op.name} of {layout.arch.name} "
        f"has {op.activation or 'none'}"
        for layer, op in zip(source.layers, weighted(layout), strict=True)
        if layer.activation not in ("unknown", op.activation)
    ]
