//! `preprocessor_config.json`: how an image becomes the pixels of this model, in the words of Hugging Face's
//! `CLIPImageProcessor`.

use serde_json::{Value, json};

/// Name of the file.
pub(crate) const PREPROCESSOR_CONFIG: &str = "preprocessor_config.json";
/// Bicubic, as Pillow numbers its filters.
const BICUBIC: u32 = 3;

/// The processor of a model that takes square images of `image_size` pixels: short side to that size, centre crop, and
/// the constants that CLIP was trained with. `otter` prepares images in the same way.
pub fn preprocessor_json(image_size: usize) -> Value {
    json!({
        "crop_size": { "height": image_size, "width": image_size },
        "do_center_crop": true,
        "do_convert_rgb": true,
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": BICUBIC,
        "rescale_factor": 0.00392156862745098,
        "size": { "shortest_edge": image_size },
    })
}
