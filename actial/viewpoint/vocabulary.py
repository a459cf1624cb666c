"""Names of the objects and colors that questions speak of."""

from __future__ import annotations

# Categories of the procedural world: training objects are of the first, the out-of-domain split of
# the second.
SEEN = (
    "car",
    "mug",
    "chair",
    "house",
    "robot",
    "duck",
    "teapot",
    "plane",
    "boat",
    "dog",
    "television",
    "train",
)
UNSEEN = ("camera", "shoe", "bear", "truck")
PALETTE = {  # in the order of hue
    "red": (205, 35, 40),
    "orange": (245, 130, 20),
    "yellow": (240, 215, 40),
    "green": (40, 150, 55),
    "cyan": (60, 205, 215),
    "blue": (35, 70, 200),
    "purple": (130, 45, 165),
    "pink": (250, 145, 190),
}
