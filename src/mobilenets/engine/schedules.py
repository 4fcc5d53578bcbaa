"""How kernels are cut into tiles: by rule, for shapes that nobody tuned.

The rule counts cycles for one step of a tile's sum: multiplications, of which a core does two vectors at a time, loads
of weights and of the source, likewise, and the four cycles that a sum has to wait for itself.
"""

from __future__ import annotations

from mobilenets.engine.kernels import Tile
from mobilenets.engine.target import Machine

__all__ = [
    "Machine",
    "dense_tile",
    "depthwise_block",
    "depthwise_pixels",
    "linear_tile",
    "mean_tile",
    "rows_at_once",
    "tile_cost",
]

MOST_PIXELS = 16
MOST_VECTORS = 4
LATENCY = 4  # cycles of a multiply-add
WEIGHTS_BYTES = 1 << 17  # of a layer: more is not read from the nearest cache again and again
BETWEEN_BYTES = 1 << 18  # of what a kernel keeps: more would not leave the second cache to the weights
AT_ONCE = 2  # multiply-adds, or loads, a cycle


def dense_tile(channels: int, pixels: int, machine: Machine) -> Tile:
    """Return the tile of a convolution over all channels, with `pixels` in a row of its output.

    >>> dense_tile(96, 112, Machine(16, 32))
    Tile(block=32, pixels=14)
    """
    best, least = Tile(machine.lanes, 1), float("inf")
    for vectors in range(1, MOST_VECTORS + 1):
        for tile in range(1, min(MOST_PIXELS, pixels) + 1):
            cost = tile_cost(channels, pixels, vectors, tile, machine)
            larger = vectors * tile * machine.lanes > best.block * best.pixels
            if cost < least * 0.999 or (cost < least * 1.001 and larger):
                best, least = Tile(vectors * machine.lanes, tile), cost
    return best


def tile_cost(channels: int, pixels: int, vectors: int, tile: int, machine: Machine) -> float:
    """Return the cycles of one step of the sums of a row of pixels, by the rule; infinite where registers run out."""
    if vectors * tile + vectors + 1 > machine.registers:
        return float("inf")
    cycles = max(vectors * tile / AT_ONCE, (vectors + tile) / AT_ONCE, LATENCY)
    return cycles * -(-channels // (vectors * machine.lanes)) * -(-pixels // tile)


def linear_tile(channels: int, machine: Machine) -> Tile:
    """Return the tile of a fully connected layer: as many sums as keep a core busy, and no more than are useful."""
    vectors = min(2 * LATENCY, machine.registers // 2, -(-channels // machine.lanes))
    return Tile(vectors * machine.lanes, 1)


def depthwise_pixels(width: int) -> int:
    """Return how many pixels of a row a depthwise convolution computes at once.

    >>> depthwise_pixels(56), depthwise_pixels(12)
    (8, 6)
    """
    return min(range(8, 3, -1), key=lambda tile: -(-width // tile) * tile) if width > 8 else width


def depthwise_block(channels: int, machine: Machine) -> int:
    """Return a block that divides the channels, for a depthwise convolution that reads a map."""
    for vectors in range(MOST_VECTORS, 0, -1):
        if channels % (vectors * machine.lanes) == 0:
            return vectors * machine.lanes
    return next(block for block in (8, 4, 2, 1) if channels % block == 0)


def rows_at_once(sides: tuple[int, int], channels: int, out: int) -> int:
    """Return how many rows a depthwise and a 1x1 convolution go on at a time: weights are read once for all of them.

    They divide the rows and leave some for a second thread; and what is between the two stays in the cache.

    >>> rows_at_once((14, 14), 512, 512), rows_at_once((56, 56), 128, 128)
    (7, 1)
    """
    height, width = sides
    if 4 * channels * out < WEIGHTS_BYTES:
        return 1
    fitting = [rows for rows in range(1, height // 2 + 1) if height % rows == 0]
    return max((rows for rows in fitting if 4 * rows * width * channels <= BETWEEN_BYTES), default=1)


def mean_tile(channels: int, pixels: int, machine: Machine) -> Tile | None:
    """Return the tile of a 1x1 convolution whose output is averaged: it divides the pixels; None if none does well."""
    fitting = [tile for tile in range(1, MOST_PIXELS + 1) if pixels % tile == 0]
    tile = dense_tile(channels, max(fitting), machine)
    if tile.pixels in fitting:
        return tile
    pixels_each = max(each for each in fitting if 2 * each + 3 <= machine.registers)
    return Tile(2 * machine.lanes, pixels_each) if pixels_each > 3 or pixels < 4 else None
