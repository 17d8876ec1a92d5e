//! Writes the default toybox and prints how long it took.
//! `cargo run --release -p otter-dev --example time_writing -- FOLDER`

use otter_toybox::world::{ToyboxOptions, write_toybox};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("give the folder to write")?;
    let start = std::time::Instant::now();
    let summary = write_toybox(folder.as_ref(), &ToyboxOptions::default(), &mut |_| {})?;
    println!("{} images in {:.1} s", summary.images, start.elapsed().as_secs_f64());
    for set in summary.sets {
        println!("{set:?}");
    }
    Ok(())
}
