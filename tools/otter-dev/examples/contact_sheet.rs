//! Writes a contact sheet of the toybox: every color and shape, then random scenes.
//! `cargo run -p otter-dev --example contact_sheet -- sheet.png`

use image::{RgbImage, imageops};
use otter_toybox::world::{Concept, Object, Scene, Size, random_stream, render};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("give the name of the PNG to write")?;
    let (size, zoom) = (32u32, 3u32);
    let mut sheet = RgbImage::new(8 * size * zoom, 10 * size * zoom);
    for place in 0..80u32 {
        let random = &mut random_stream(1, "sheet", u64::from(place));
        let scene = if place < 48 {
            // Rows are shapes, columns colors.
            let concept = Concept::from_index((place % 8 * 6 + place / 8) as usize);
            Scene::single(Object::anywhere(concept, Size::ALL[place as usize % 2], random))
        } else {
            Scene::random(random)
        };
        let picture = render(&scene, size, u64::from(place));
        let large = imageops::resize(&picture, size * zoom, size * zoom, imageops::FilterType::Nearest);
        let (x, y) = (place % 8 * size * zoom, place / 8 * size * zoom);
        imageops::replace(&mut sheet, &large, i64::from(x), i64::from(y));
    }
    sheet.save(path)?;
    Ok(())
}
