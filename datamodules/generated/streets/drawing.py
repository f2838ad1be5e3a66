"""Random streets seen from a car, as a map of materials."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from datamodules.generated.streets.canvas import HEIGHT, OVERSAMPLING, WIDTH, Rgb, Street, StreetCanvas, shaded
from eomt.utils.labels import IGNORE_INDEX

CLASS_NAMES = ["road", "sidewalk", "building", "vegetation", "sky", "car", "person"]
ROAD, SIDEWALK, BUILDING, VEGETATION, SKY, CAR, PERSON = range(7)

Paint = Callable[[], None]
# meters to it, and how to paint it
StreetObject = tuple[float, Paint]

FACADES: list[Rgb] = [(0.72, 0.6, 0.45), (0.62, 0.36, 0.28), (0.7, 0.68, 0.64), (0.5, 0.46, 0.44), (0.78, 0.7, 0.52)]
CAR_COLORS: list[Rgb] = [(0.7, 0.1, 0.1), (0.12, 0.2, 0.5), (0.85, 0.85, 0.86), (0.15, 0.15, 0.16), (0.75, 0.6, 0.12)]
COATS: list[Rgb] = [(0.65, 0.12, 0.15), (0.15, 0.3, 0.6), (0.85, 0.75, 0.2), (0.2, 0.2, 0.22), (0.8, 0.8, 0.78)]


def draw_street(random: Generator) -> Street:
    """Draw a random street."""
    return _StreetPainter(random).paint()


class _StreetPainter(StreetCanvas):
    """Paints from far to near."""

    def paint(self) -> Street:
        self.material(SKY, (0.5, 0.7, 0.95), depth=1e6, roughness=0.0)
        self.paint_skyline()
        self.paint_ground()
        # whatever stands on the street stands in front of the walls beside it
        for things in (
            self.buildings(-1) + self.buildings(1),
            self.trees() + self.lamps() + self.cars() + self.persons(),
        ):
            for _, paint_thing in sorted(things, key=lambda thing: -thing[0]):
                paint_thing()
        if self.random.random() < 0.5:
            self.paint_bonnet()
        self.scene.surface = np.asarray(self.image)
        return self.scene

    def paint_skyline(self) -> None:
        left = -2.0
        while left < WIDTH:
            width = self.random.uniform(5, 22)
            is_green = self.random.random() < 0.4
            class_id = VEGETATION if is_green else BUILDING
            color = self.vary((0.2, 0.36, 0.16)) if is_green else self.choose(FACADES)
            material = self.material(class_id, color, roughness=0.12 if is_green else 0.04)
            top = self.scene.horizon - self.random.uniform(2, 7 if is_green else 14)
            box = [value * OVERSAMPLING for value in (left, top, left + width, self.scene.horizon + 3)]
            self.draw.rectangle(box, fill=material)
            if is_green:
                box[1], box[3] = box[1] - 2 * OVERSAMPLING, box[1] + 4 * OVERSAMPLING
                self.draw.ellipse(box, fill=material)
            left += width

    def paint_ground(self) -> None:
        grass = self.material(VEGETATION, self.vary((0.27, 0.45, 0.17)), depth=15, roughness=0.14)
        top = (self.scene.horizon + 1) * OVERSAMPLING
        self.draw.rectangle((0, top, WIDTH * OVERSAMPLING, HEIGHT * OVERSAMPLING), fill=grass)
        outer = self.half_road + self.sidewalk
        pavement = self.material(
            SIDEWALK, self.choose([(0.6, 0.57, 0.53), (0.62, 0.5, 0.42)], 0.03), depth=12, roughness=0.07, wet=0.25
        )
        curb = self.material(SIDEWALK, self.vary((0.75, 0.74, 0.7), 0.03), depth=12, wet=0.1)
        asphalt = self.material(ROAD, self.vary((0.33, 0.33, 0.35), 0.015), depth=10, roughness=0.06, wet=0.6)
        for side in (-1, 1):
            self.strip(side * self.half_road, side * outer, pavement)
            self.strip(side * self.half_road, side * (self.half_road + 0.25), curb)
        self.strip(-self.half_road, self.half_road, asphalt)
        paint = self.material(ROAD, (0.85, 0.85, 0.8), depth=10, wet=0.3)
        for near in np.arange(self.random.uniform(2, 6), 50, 6.0).tolist():
            self.strip(-0.09, 0.09, paint, near, near + 3)
        if self.random.random() < 0.3:
            near = self.random.uniform(7, 18)
            for left in np.arange(-self.half_road + 0.3, self.half_road - 0.4, 1.0).tolist():
                self.strip(left, left + 0.5, paint, near, near + 3)

    def buildings(self, side: int) -> list[StreetObject]:
        things: list[StreetObject] = []
        wall = self.half_road + self.sidewalk + self.random.uniform(0, 2.5)
        near = self.random.uniform(2.5, 9)
        while near < 70:
            length = self.random.uniform(7, 18)
            if self.random.random() < 0.82:
                things.append((near, self.building(side, wall, near, near + length)))
            near += length + (self.random.uniform(0, 6) if self.random.random() < 0.4 else 0.0)
        return things

    def building(self, side: int, wall: float, near: float, far: float) -> Paint:
        floors = int(self.random.integers(2, 6))
        floor = self.random.uniform(2.7, 3.3)
        height = floors * floor + 0.6
        color = self.choose(FACADES)
        is_lit = self.random.random((floors, 12)) < self.random.uniform(0.25, 0.7)
        warmth = self.random.uniform(0.35, 0.75)

        def paint() -> None:
            front = self.material(BUILDING, shaded(color, 0.75), depth=near, roughness=0.06)
            facade = self.material(BUILDING, color, depth=(near + far) / 2, roughness=0.06)
            roof = self.material(BUILDING, (0.4, 0.24, 0.2), depth=near)
            dark = self.material(BUILDING, (0.2, 0.24, 0.3), depth=near)
            lit = self.material(BUILDING, (0.24, 0.28, 0.33), depth=near, glow=(1.0, 0.45 + warmth / 2, warmth))
            self.upright(side * wall, side * (wall + 14), 0, height, near, front)
            self.polygon([(side * wall, y, z) for y, z in ((0, near), (0, far), (height, far), (height, near))], facade)
            self.polygon(
                [(side * wall, y, z) for y, z in ((height, near), (height, far), (height + 0.5, far))]
                + [(side * wall, height + 0.5, near)],
                roof,
            )
            for row in range(floors):
                bottom = row * floor + 1.0
                for column, z in enumerate(np.arange(near + 0.8, min(far, 55.0) - 1.6, 2.6).tolist()):
                    corners = ((bottom, z), (bottom, z + 1.4), (bottom + 1.5, z + 1.4), (bottom + 1.5, z))
                    self.polygon(
                        [(side * wall, y, depth) for y, depth in corners], lit if is_lit[row, column] else dark
                    )
                for column in range(3):
                    left = wall + 1.0 + column * 2.7
                    near_edge, far_edge = side * left, side * (left + 1.4)
                    self.upright(
                        near_edge, far_edge, bottom, bottom + 1.5, near, lit if is_lit[row, 11 - column] else dark
                    )

        return paint

    def trees(self) -> list[StreetObject]:
        return [(z, self.tree(z)) for z in self.random.uniform(7, 50, self.random.integers(0, 7)).tolist()]

    def tree(self, z: float) -> Paint:
        side = self.random.choice((-1, 1))
        x = side * (self.half_road + self.random.uniform(0.6, 1.0) * self.sidewalk + 0.3)
        height, crown = self.random.uniform(3.0, 5.0), self.random.uniform(1.1, 2.0)
        color = self.choose([(0.2, 0.38, 0.13), (0.3, 0.42, 0.14), (0.16, 0.32, 0.18)], 0.03)
        offsets = self.random.normal(0, 0.45, (5, 2)) * crown
        is_hedge = self.random.random() < 0.3

        def paint() -> None:
            leaves = self.material(VEGETATION, color, depth=z, roughness=0.22)
            light_leaves = self.material(VEGETATION, shaded(color, 1.3), depth=z, roughness=0.22)
            if is_hedge:
                self.upright(x - 1.4, x + 1.4, 0, 0.9, z, leaves)
                self.ellipse(x, 0.9, z, 1.4, 0.25, light_leaves)
                return
            trunk = self.material(VEGETATION, (0.32, 0.24, 0.17), depth=z, roughness=0.1)
            self.upright(x - 0.14, x + 0.14, 0, height, z, trunk)
            self.ellipse(x, height, z, crown * 1.1, crown, leaves)
            for offset_x, offset_y in offsets:
                material = light_leaves if offset_y > 0 else leaves
                self.ellipse(x + offset_x, height + offset_y, z, crown * 0.6, crown * 0.55, material)

        return paint

    def lamps(self) -> list[StreetObject]:
        side = int(self.random.choice((-1, 1)))
        first, spacing = self.random.uniform(7, 14), self.random.uniform(11, 17)
        return [(z, self.lamp(side, z)) for z in np.arange(first, 60, spacing).tolist()]

    def lamp(self, side: int, z: float) -> Paint:
        def paint() -> None:
            x, head = side * (self.half_road + 0.5), side * (self.half_road - 0.7)
            pole = self.material(IGNORE_INDEX, (0.3, 0.32, 0.33), depth=z)
            bulb = self.material(IGNORE_INDEX, (0.8, 0.8, 0.78), depth=z, glow=(1.6, 1.15, 0.6))
            self.upright(x - 0.06, x + 0.06, 0, 5.6, z, pole)
            self.upright(x, head, 5.5, 5.6, z, pole)
            self.upright(head - 0.3, head + 0.3, 5.35, 5.5, z, bulb)
            column, row = self.project(head, 5.4, z)
            self.scene.lamps.append((column / OVERSAMPLING, row / OVERSAMPLING, z))

        return paint

    def cars(self) -> list[StreetObject]:
        places = [
            (-self.half_road + 1.1, False),
            (self.half_road - 1.1, True),
            (-self.half_road / 2, False),
            (self.half_road / 2, True),
        ]
        things: list[StreetObject] = []
        for place in self.random.permutation(4)[: self.random.integers(0, 5)]:
            x, is_rear = places[place]
            z = self.random.uniform(6.5, 30)
            # a bumper inside another would look like a crash
            if all(abs(z - other) > 5 for other, _ in things):
                things.append((z, self.car(x, z, is_rear)))
        return things

    def car(self, x: float, z: float, is_rear: bool) -> Paint:
        color = self.choose(CAR_COLORS, 0.04)
        width, height = self.random.uniform(1.7, 1.95), self.random.uniform(1.4, 1.75)
        length, waist = self.random.uniform(3.8, 4.6), self.random.uniform(0.8, 0.95)

        def paint() -> None:
            body = self.material(CAR, color, depth=z, roughness=0.02)
            flank = self.material(CAR, shaded(color, 0.7), depth=z, roughness=0.02)
            glass = self.material(CAR, (0.13, 0.17, 0.22), depth=z, roughness=0.02)
            rubber = self.material(CAR, (0.06, 0.06, 0.07), depth=z, roughness=0.02)
            shadow = self.material(ROAD, (0.12, 0.12, 0.13), depth=z)
            glow = (1.3, 0.08, 0.05) if is_rear else (1.8, 1.7, 1.4)
            light = self.material(CAR, (0.6, 0.08, 0.08) if is_rear else (0.9, 0.9, 0.85), depth=z, glow=glow)
            left, right, far = x - width / 2, x + width / 2, z + length
            seen = right if self.project(x, 0, z)[0] < self.scene.vanishing * OVERSAMPLING else left
            self.polygon([(left - 0.15, 0, z), (right + 0.15, 0, z), (right, 0, far), (left, 0, far)], shadow)
            inset = 0.18 if seen == left else -0.18
            cabin = ((waist, z + 0.5), (waist, far - 0.9), (height, far - 1.6), (height, z + 1.0))
            self.polygon([(seen, y, d) for y, d in ((0.25, z), (0.25, far), (waist, far), (waist, z))], flank)
            self.polygon([(seen + inset * (y > waist), y, d) for y, d in cabin], glass)
            for depth in (z + 0.7, far - 0.8):
                rim = [(0.33 * np.sin(angle), 0.33 * np.cos(angle)) for angle in np.linspace(0, 6.28, 9)]
                self.polygon([(seen, 0.33 + dy, depth + dz) for dy, dz in rim], rubber)
            for wheel in (left + 0.15, right - 0.15):
                self.upright(wheel - 0.13, wheel + 0.13, 0, 0.45, z, rubber)
            self.upright(left, right, 0.25, waist, z, body)
            slant = 0.22
            roof = [(left + slant, height, z), (right - slant, height, z)]
            self.polygon([(left + 0.03, waist, z), *roof, (right - 0.03, waist, z)], body)
            pane = [(left + slant + 0.08, height - 0.1, z), (right - slant - 0.08, height - 0.1, z)]
            self.polygon([(left + 0.14, waist, z), *pane, (right - 0.14, waist, z)], glass)
            for edge in (left + 0.05, right - 0.4):
                self.upright(edge, edge + 0.35, waist - 0.28, waist - 0.1, z, light)
            plate = self.material(CAR, (0.85, 0.85, 0.8), depth=z)
            self.upright(x - 0.25, x + 0.25, 0.42, 0.54, z, plate)

        return paint

    def persons(self) -> list[StreetObject]:
        depths = self.random.uniform(5, 16, self.random.integers(0, 5)).tolist()
        return [(z, self.person(z)) for z in depths]

    def person(self, z: float) -> Paint:
        side = self.random.choice((-1, 1))
        if self.random.random() < 0.25:
            x = self.random.uniform(-self.half_road, self.half_road)
        else:
            x = side * (self.half_road + self.random.uniform(0.3, self.sidewalk))
        size, stride = self.random.uniform(0.9, 1.08), self.random.uniform(0.05, 0.3)
        coat, trousers = self.choose(COATS, 0.06), self.choose([(0.14, 0.15, 0.25), (0.25, 0.2, 0.16)], 0.04)
        skin = self.choose([(0.85, 0.65, 0.52), (0.5, 0.34, 0.25)], 0.04)

        def paint() -> None:
            legs = self.material(PERSON, trousers, depth=z)
            torso = self.material(PERSON, coat, depth=z)
            arms = self.material(PERSON, shaded(coat, 0.8), depth=z)
            head = self.material(PERSON, skin, depth=z)
            for foot in (-stride, stride):
                points = [(-0.13, 0.85), (0.13, 0.85), (foot + 0.09, 0.0), (foot - 0.09, 0.0)]
                self.polygon([(x + dx * size, y * size, z) for dx, y in points], legs)
            points = [(-0.3, 1.4), (0.3, 1.4), (0.33, 0.75), (-0.33, 0.75)]
            self.polygon([(x + dx * size, y * size, z) for dx, y in points], arms)
            points = [(-0.2, 1.45), (0.2, 1.45), (0.19, 0.72), (-0.19, 0.72)]
            self.polygon([(x + dx * size, y * size, z) for dx, y in points], torso)
            self.ellipse(x, 1.6 * size, z, 0.14, 0.17, head)

        return paint

    def paint_bonnet(self) -> None:
        """Paint the own car at the bottom, which belongs to no class."""
        bonnet = self.material(IGNORE_INDEX, self.choose(CAR_COLORS, 0.04), depth=2, roughness=0.02)
        top = (HEIGHT - self.random.uniform(4, 9)) * OVERSAMPLING
        margin = self.random.uniform(-20, 10) * OVERSAMPLING
        self.draw.ellipse((margin, top, WIDTH * OVERSAMPLING - margin, top + 60 * OVERSAMPLING), fill=bonnet)
