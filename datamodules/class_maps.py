"""Class ids of well-known data sets: raw labels in their masks -> contiguous class ids, 255 = ignored."""

from typing import Literal, get_args

from eomt.utils.labels import IGNORE_INDEX

NamedClassMap = Literal["cityscapes", "ade20k", "coco_panoptic"]

# Cityscapes: labelIds of the classes that are evaluated, in the order of their train ids
_CITYSCAPES = {
    **{7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light"},
    **{20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car"},
    **{27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"},
}
CITYSCAPES_NAMES = list(_CITYSCAPES.values())
CITYSCAPES_LABEL_IDS = dict.fromkeys(range(34), IGNORE_INDEX) | {
    label: train_id for train_id, label in enumerate(_CITYSCAPES)
}

# ADE20K's SceneParsing benchmark: 0 is no class, label i is class i - 1
ADE20K_NAMES = [
    name.strip()
    for name in """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
    table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field,
    armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard,
    chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway,
    case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower,
    book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine,
    hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane,
    dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship,
    fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag,
    minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher,
    screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate,
    monitor, bulletin board, shower, radiator, glass, clock, flag
    """.replace("\n", " ").split(",")
]
ADE20K_LABELS = {0: IGNORE_INDEX} | {index + 1: index for index in range(len(ADE20K_NAMES))}

# COCO panoptic: category ids have gaps; class ids follow their order, the 80 things first
_COCO = [
    (range(1, 12), "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant"),
    (range(13, 17), "stop sign, parking meter, bench, bird"),
    (range(17, 26), "cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe"),
    ((27, 28, 31, 32, 33), "backpack, umbrella, handbag, tie, suitcase"),
    (range(34, 39), "frisbee, skis, snowboard, sports ball, kite"),
    (range(39, 45), "baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle"),
    (range(46, 56), "wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange"),
    (range(56, 66), "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed"),
    ((67, 70), "dining table, toilet"),
    (range(72, 83), "tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator"),
    (range(84, 91), "book, clock, vase, scissors, teddy bear, hair drier, toothbrush"),
    ((92, 93, 95, 100, 107, 109, 112), "banner, blanket, bridge, cardboard, counter, curtain, door-stuff"),
    ((118, 119, 122, 125, 128, 130), "floor-wood, flower, fruit, gravel, house, light"),
    ((133, 138, 141, 144, 145), "mirror-stuff, net, pillow, platform, playingfield"),
    ((147, 148, 149, 151, 154, 155, 156), "railroad, river, road, roof, sand, sea, shelf"),
    ((159, 161, 166, 168), "snow, stairs, tent, towel"),
    ((171, 175, 176, 177), "wall-brick, wall-stone, wall-tile, wall-wood"),
    ((178, 180, 181), "water-other, window-blind, window-other"),
    (range(184, 189), "tree-merged, fence-merged, ceiling-merged, sky-other-merged, cabinet-merged"),
    (range(189, 194), "table-merged, floor-other-merged, pavement-merged, mountain-merged, grass-merged"),
    (range(194, 198), "dirt-merged, paper-merged, food-other-merged, building-other-merged"),
    (range(198, 201), "rock-merged, wall-other-merged, rug-merged"),
]
_COCO_NAME_OF_ID = {
    category: name for ids, names in _COCO for category, name in zip(ids, names.split(", "), strict=True)
}
COCO_PANOPTIC_NAMES = list(_COCO_NAME_OF_ID.values())
COCO_PANOPTIC_CATEGORIES = {0: IGNORE_INDEX} | {category: index for index, category in enumerate(_COCO_NAME_OF_ID)}

CLASS_MAPS: dict[str, tuple[dict[int, int], list[str]]] = {
    "cityscapes": (CITYSCAPES_LABEL_IDS, CITYSCAPES_NAMES),
    "ade20k": (ADE20K_LABELS, ADE20K_NAMES),
    "coco_panoptic": (COCO_PANOPTIC_CATEGORIES, COCO_PANOPTIC_NAMES),
}
assert set(CLASS_MAPS) == set(get_args(NamedClassMap))
