"""How large a checkpoint is, to the byte, without its weights."""

from __future__ import annotations

import json
from math import prod

from mobilenets.checkpoint import KEY, SAMPLE, Card, answer_size, tensor_specs

_CODES = {"float32": ("F32", 4), "int32": ("I32", 4), "int8": ("I8", 1), "uint8": ("U8", 1)}
"""What safetensors calls a type, and its bytes. Tensors are written in this order of types, then by name."""
_ALIGNMENT = 8
_DIGEST = "0" * 64  # a sha256, whatever it is


def flash_bytes(card: Card) -> int:
    """Return the size in bytes of the file that holds a card, its weights and its sample.

    Raises:
        CheckpointError: a precision that no checkpoint has.
    """
    specs = dict(tensor_specs(card))
    fed = card.preprocess
    specs[f"{SAMPLE}input"] = ("uint8", (fed.height, fed.width, fed.channels))
    specs[f"{SAMPLE}output"] = ("float32", (answer_size(card.plan),))
    text = json.dumps(card.to_json() | {"sha256": _DIGEST}, sort_keys=True)
    entries = [f'"__metadata__":{{"{KEY}":{json.dumps(text, ensure_ascii=False)}}}']
    order = list(_CODES)
    end = 0
    for name, (kind, shape) in sorted(specs.items(), key=lambda each: (order.index(each[1][0]), each[0])):
        code, size = _CODES[kind]
        begin, end = end, end + size * prod(shape)
        sides = ",".join(map(str, shape))
        entries.append(f'"{name}":{{"dtype":"{code}","shape":[{sides}],"data_offsets":[{begin},{end}]}}')
    header = len(("{" + ",".join(entries) + "}").encode())
    return 8 + -(-header // _ALIGNMENT) * _ALIGNMENT + end
