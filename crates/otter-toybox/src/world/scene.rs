//! Scenes: colored shapes at positions. Lengths are in world units; a picture is 32 units wide
//! whatever its number of pixels.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;

use super::language::{COLOR_NAMES, SHAPE_NAMES, SHAPE_PLURALS, SIZE_NAMES};

/// Side length of a picture in world units.
pub const WORLD_SIDE: f32 = 32.0;

/// Most objects in one scene: one per cell of a 2×2 grid.
pub const MAX_OBJECTS: usize = 4;

/// A color.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Color {
    Red,
    Green,
    Blue,
    Yellow,
    Purple,
    Orange,
    Cyan,
    White,
}

impl Color {
    /// All colors.
    pub const ALL: [Self; 8] = [
        Self::Red,
        Self::Green,
        Self::Blue,
        Self::Yellow,
        Self::Purple,
        Self::Orange,
        Self::Cyan,
        Self::White,
    ];

    /// Its word.
    pub fn name(self) -> &'static str {
        COLOR_NAMES[self as usize]
    }

    /// Red, green, blue before any jitter.
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [220, 40, 40],
            Self::Green => [40, 180, 60],
            Self::Blue => [50, 80, 230],
            Self::Yellow => [235, 215, 50],
            Self::Purple => [150, 50, 190],
            Self::Orange => [245, 140, 30],
            Self::Cyan => [60, 210, 220],
            Self::White => [240, 240, 240],
        }
    }
}

/// A shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Shape {
    Circle,
    Square,
    Triangle,
    Cross,
    Ring,
    Diamond,
}

impl Shape {
    /// All shapes.
    pub const ALL: [Self; 6] =
        [Self::Circle, Self::Square, Self::Triangle, Self::Cross, Self::Ring, Self::Diamond];

    /// Its word.
    pub fn name(self) -> &'static str {
        SHAPE_NAMES[self as usize]
    }

    /// The word for several.
    pub fn plural(self) -> &'static str {
        SHAPE_PLURALS[self as usize]
    }
}

/// A size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Size {
    Small,
    Large,
}

impl Size {
    /// All sizes.
    pub const ALL: [Self; 2] = [Self::Small, Self::Large];

    /// Its word.
    pub fn name(self) -> &'static str {
        SIZE_NAMES[self as usize]
    }

    /// The other size.
    pub fn other(self) -> Self {
        if self == Self::Small { Self::Large } else { Self::Small }
    }

    /// Half the side of the box around the object, in world units: 9 or 14 pixels at 32.
    pub fn half_extent(self) -> f32 {
        if self == Self::Small { 4.5 } else { 7.0 }
    }
}

/// A visual concept: what a made-up word can mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Concept {
    /// Its color.
    pub color: Color,
    /// Its shape.
    pub shape: Shape,
}

impl Concept {
    /// Number of concepts.
    pub const COUNT: usize = Color::ALL.len() * Shape::ALL.len();

    /// The concept with a number below [`Concept::COUNT`]; larger numbers wrap around.
    pub fn from_index(index: usize) -> Self {
        let index = index % Self::COUNT;
        Self { color: Color::ALL[index / Shape::ALL.len()], shape: Shape::ALL[index % Shape::ALL.len()] }
    }

    /// A concept drawn uniformly.
    pub fn random(random: &mut ChaCha8Rng) -> Self {
        Self::from_index(random.random_range(0..Self::COUNT))
    }

    /// For example `red circle`.
    pub fn phrase(self) -> String {
        format!("{} {}", self.color.name(), self.shape.name())
    }
}

/// One object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Object {
    /// Its color.
    pub color: Color,
    /// Its shape.
    pub shape: Shape,
    /// Its size.
    pub size: Size,
    /// Center from the left edge, in world units (0 to 32).
    pub x: f32,
    /// Center from the top edge, in world units (0 to 32).
    pub y: f32,
}

impl Object {
    /// Color and shape.
    pub fn concept(&self) -> Concept {
        Concept { color: self.color, shape: self.shape }
    }

    /// For example `small red circle`.
    pub fn phrase(&self) -> String {
        format!("{} {} {}", self.size.name(), self.color.name(), self.shape.name())
    }

    /// An object anywhere in the picture, fully visible.
    pub fn anywhere(concept: Concept, size: Size, random: &mut ChaCha8Rng) -> Self {
        Self::anywhere_fitting(concept, size, size, random)
    }

    /// An object where one of size `room` would be fully visible too.
    pub fn anywhere_fitting(concept: Concept, size: Size, room: Size, random: &mut ChaCha8Rng) -> Self {
        let (low, high) = (room.half_extent() + 0.5, WORLD_SIDE - 0.5 - room.half_extent());
        let (x, y) = (random.random_range(low..high), random.random_range(low..high));
        Self { color: concept.color, shape: concept.shape, size, x, y }
    }

    /// An object near the middle of one of the four cells (row by row).
    pub fn in_cell(concept: Concept, size: Size, cell: usize, random: &mut ChaCha8Rng) -> Self {
        let half_cell = WORLD_SIDE / 4.0;
        let slack = half_cell - size.half_extent() - 0.3;
        let mut place =
            |number: usize| half_cell + 2.0 * half_cell * number as f32 + random.random_range(-slack..slack);
        let (x, y) = (place(cell % 2), place(cell / 2 % 2));
        Self { color: concept.color, shape: concept.shape, size, x, y }
    }

    /// Signed distance of a point to the outline, negative inside, in world units. Exact for the
    /// round shapes, a close bound for the others.
    pub fn signed_distance(&self, x: f32, y: f32) -> f32 {
        let half = self.size.half_extent();
        let (x, y) = (x - self.x, y - self.y);
        let (width, height) = (x.abs(), y.abs());
        match self.shape {
            Shape::Circle => (x * x + y * y).sqrt() - half,
            Shape::Square => width.max(height) - 0.88 * half,
            // The apex points up; 0.447 normalizes the slope of the two sides.
            Shape::Triangle => (y - 0.85 * half).max((2.0 * width - (y + half)) * 0.447),
            Shape::Cross => (width.min(height) - 0.3 * half).max(width.max(height) - half),
            Shape::Ring => ((x * x + y * y).sqrt() - 0.75 * half).abs() - 0.25 * half,
            Shape::Diamond => (width + height - 1.05 * half) * std::f32::consts::FRAC_1_SQRT_2,
        }
    }
}

/// A scene: objects from back to front.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scene {
    /// The objects.
    pub objects: Vec<Object>,
}

impl Scene {
    /// A scene with one object.
    pub fn single(object: Object) -> Self {
        Self { objects: vec![object] }
    }

    /// One object per concept, each in its own cell of the 2×2 grid, of random size. Concepts
    /// beyond [`MAX_OBJECTS`] have no cell and are left out.
    pub fn in_cells(concepts: &[Concept], random: &mut ChaCha8Rng) -> Self {
        let mut cells = [0, 1, 2, 3];
        cells.shuffle(random);
        let objects = concepts.iter().zip(cells).map(|(&concept, cell)| {
            let size = random_size(random);
            Object::in_cell(concept, size, cell, random)
        });
        Self { objects: objects.collect() }
    }

    /// A scene for vision pre-training: half of them show one object, the others two to four.
    pub fn random(random: &mut ChaCha8Rng) -> Self {
        if random.random_bool(0.5) {
            let (concept, size) = (Concept::random(random), random_size(random));
            return Self::single(Object::anywhere(concept, size, random));
        }
        let count = random.random_range(2..=MAX_OBJECTS);
        let concepts: Vec<Concept> = (0..count).map(|_| Concept::random(random)).collect();
        Self::in_cells(&concepts, random)
    }

    /// The scene in words, for language pre-training: `small red circle , large blue ring`.
    pub fn description(&self) -> String {
        self.objects.iter().map(Object::phrase).collect::<Vec<_>>().join(" , ")
    }
}

/// A size drawn uniformly.
pub(crate) fn random_size(random: &mut ChaCha8Rng) -> Size {
    if random.random_bool(0.5) { Size::Large } else { Size::Small }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::random_stream;

    #[test]
    fn objects_are_fully_inside_and_do_not_overlap() {
        for index in 0..400 {
            let scene = Scene::random(&mut random_stream(3, "test", index));
            for (number, object) in scene.objects.iter().enumerate() {
                let half = object.size.half_extent();
                for place in [object.x, object.y] {
                    assert!(place - half >= 0.0 && place + half <= WORLD_SIDE, "{object:?}");
                }
                for other in &scene.objects[..number] {
                    let room = half + other.size.half_extent();
                    assert!(
                        (object.x - other.x).abs() >= room || (object.y - other.y).abs() >= room,
                        "{scene:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn concepts_are_numbered_without_gaps() {
        let all: std::collections::BTreeSet<Concept> = (0..Concept::COUNT).map(Concept::from_index).collect();
        assert_eq!(all.len(), 48);
    }
}
