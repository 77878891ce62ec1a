"""Does an image show what its prompt says? What a detector finds, against boxes or a caption.

The figures of real scenes are the ceiling: they tell how far the detector can be trusted.
"""

import torch
from torch import Tensor, nn

from minidit.data.captions import BETWEEN, Request, is_large, read
from minidit.data.scenes import COLOURS, KINDS
from minidit.evaluate.detector import SceneDetector, overlap
from minidit.weights import load

MARGIN = 0.05  # part of the image by which a place or a direction may be missed
ENOUGH = 0.5  # overlap of a box that is where it should be


def scene_detector() -> SceneDetector:
    """The shipped detector of scenes."""
    return load("detector-scenes").model


def find(detector: nn.Module, images: Tensor) -> Tensor:
    """What is found in images (n, 3, h, w) in [-1, 1]: (n, 6, 6), as of `SceneDetector`."""
    return torch.cat([detector.find(part) for part in images.split(250)])


def layout_alignment(detector: nn.Module, images: Tensor, objects: Tensor) -> dict[str, float]:
    """How well images (n, 3, h, w) in [-1, 1] show a layout's boxes (n, m, 6).

    objects: the share found, of the right kind and colour. iou: their boxes' mean intersection over
    union with the layout's, 0 where not found. boxes: the share for which it is 0.5 at least.
    scenes: the share of images where that holds of all objects, and no other is found.
    """
    _check_number(images, objects, "objects")
    found, wanted = find(detector, images), objects[..., 0] > 0  # (n, 6, 6), (n, m)
    right = (found[:, None, :, :2] == objects[:, :, None, :2]).all(-1)  # (n, m, 6)
    iou = overlap(found[:, None, :, 2:], objects[:, :, None, 2:]) * right  # (n, m, 6)
    best = iou.amax(-1)  # (n, m)
    count = (found[..., 0] > 0).sum(dim=1) == wanted.sum(dim=1)  # (n,)
    return {
        "objects": _share(right.any(-1)[wanted]),
        "iou": _share(best[wanted]),
        "boxes": _share(best[wanted] >= ENOUGH),
        "scenes": _share(((best >= ENOUGH) | ~wanted).all(dim=1) & count),
    }


def caption_alignment(detector: nn.Module, images: Tensor, captions: list[str]) -> dict[str, float]:
    """How well images (n, 3, h, w) in [-1, 1] show what their captions say.

    objects: the share of those named that are found, kind and colour. sizes, places, relations: of
    what is said of them, the share that holds; it doesn't where one isn't found. counts: the share
    of images with as many objects as named. scenes: the share where all of that holds.
    """
    _check_number(images, captions, "captions")
    held: dict[str, list[bool]] = {}
    for rows, caption in zip(find(detector, images).tolist(), captions):
        verdicts = verdict(read(caption), [row for row in rows if row[0] > 0])
        verdicts["scenes"] = [all(all(values) for values in verdicts.values())]
        for name, values in verdicts.items():
            held.setdefault(name, []).extend(values)
    return {name: _share(torch.tensor(values)) for name, values in held.items()}


def verdict(request: Request, rows: list[list[float]]) -> dict[str, list[bool]]:
    """What holds of a request, given what was found: rows of 1 + kind, 1 + colour and a box."""
    colours = list(COLOURS)
    by_pair = {  # the surest stay
        (KINDS[int(row[0]) - 1], colours[int(row[1]) - 1]): row[2:] for row in reversed(rows)
    }
    boxes = [by_pair.get((told.kind, told.colour)) for told in request.objects]
    where = [(boxes[i], direction, boxes[k]) for i, direction, k in request.relations]
    sizes = [(box, told.size == "large") for told, box in zip(request.objects, boxes) if told.size]
    places = [(box, told.place) for told, box in zip(request.objects, boxes) if told.place]
    return {
        "objects": [box is not None for box in boxes],
        "sizes": [box is not None and is_large(box) == large for box, large in sizes],
        "places": [box is not None and _is_at(box, place) for box, place in places],
        "relations": [None not in row and _lies(*row) for row in where],
        "counts": [len(rows) == len(boxes)],
    }


def _is_at(box: list[float], place: tuple[int, int]) -> bool:
    edges = (0.0, *BETWEEN, 1.0)
    middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return all(edges[k] - MARGIN <= m <= edges[k + 1] + MARGIN for m, k in zip(middle, place))


def _lies(a: list[float], where: str, b: list[float]) -> bool:
    """Whether box a lies there from b, rather than across: by the larger of the distances."""
    dx, dy = ((a[k] + a[k + 2] - b[k] - b[k + 2]) / 2 for k in (0, 1))
    along, across = (dx, dy) if where in ("left", "right") else (dy, dx)
    along = -along if where in ("left", "above") else along
    return along > 0 and along + MARGIN >= abs(across)


def _share(holds: Tensor) -> float:
    """The mean; nan of nothing."""
    return holds.double().mean().item()


def _check_number(images: Tensor, prompts, name: str) -> None:
    if len(images) != len(prompts):
        raise ValueError(f"{name} are {len(prompts)} for {len(images)} images; give one for each")
