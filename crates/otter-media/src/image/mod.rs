//! Still images: bytes to RGB pixels, and pixels to the floats of a vision tower, as Pillow gives them.
//!
//! `encoded` looks at bytes, `open` decodes them into a `decoded` image of any kind of sample, which becomes 8-bit RGB by
//! the `rules`; `notes` keep what the pixels do not show. `resize` and `preprocess` do the rest.

mod decoded;
mod encoded;
mod notes;
mod open;
mod preprocess;
mod resize;
mod resize_passes;
mod resize_weights;
mod rgb;
mod rules;

pub use decoded::DecodedImage;
pub use encoded::{NO_IMAGE, is_cut, is_image};
pub use notes::{ImageCounts, ImageNote, ImageNotes, NoteCount};
pub use open::{MAX_PIXELS, MAX_SIDE, decode_image, load_image_file, open_image};
pub use preprocess::{ImageTransform, preprocess, preprocess_shared};
pub use resize::{resize_bicubic, resize_bicubic_window, resize_lanczos};
pub use rgb::RgbImage;
pub use rules::{AlphaRule, Gray16Rule, ImageRules, Orientation};
