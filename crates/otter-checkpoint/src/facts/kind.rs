//! What kind of thing a checkpoint is: a whole model, the part that a trainer saves, an OpenFlamingo file, or one of the
//! frozen models that an Otter is made from.

use crate::config::checkpoint_config::ModelFamily;
use crate::directory::trained_part::{TRAINED_FILE, TrainedPart};
use crate::facts::model::Language;
use crate::facts::part::{Part, language_name};
use crate::facts::tower::OtherTower;
use otter_model::text::Family;
use otter_model::text::families::LLAMA;
use std::fmt;
use std::path::Path;

/// What the names of the tensors say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Tower, Perceiver, cross-attention and language model: complete.
    Model,
    /// What training changed; the frozen rest is elsewhere.
    TrainedPart,
    /// As [`Kind::TrainedPart`] under OpenFlamingo's names, of its first (LLaMA) or second version.
    OpenFlamingo(u8),
    /// LoRA adapters without their model.
    Adapters,
    /// A language model alone.
    LanguageModel,
    /// A CLIP tower alone.
    VisionTower,
    /// A tower of a kind that no Otter has.
    OtherTower(OtherTower),
    /// A configuration without weights.
    Configuration,
    /// None of these.
    Unknown,
}

impl Kind {
    pub(crate) fn of(names: &[&str], language: Option<&Language>, tower: Option<OtherTower>) -> Self {
        let any = |test: &dyn Fn(&str) -> bool| names.iter().any(|name| test(name));
        let lora = |name: &str| name.contains(".lora_A.") || name.contains(".lora_B.");
        let foreign = |name: &str| {
            let layer = name.strip_prefix("perceiver.layers.").and_then(|rest| rest.split_once('.'));
            layer.is_some_and(|(_, rest)| rest.starts_with("0.") || rest.starts_with("1."))
                || name.contains(".gated_cross_attn_layer.ff.")
        };
        let part = |part: Part| any(&|name| Part::of(name) == part);
        let bridge = part(Part::Perceiver) || part(Part::CrossAttention);
        if names.is_empty() {
            Self::Configuration
        } else if names.iter().all(|name| lora(name)) {
            Self::Adapters
        } else if any(&foreign) {
            Self::OpenFlamingo(if language == Some(&Language::Known(&LLAMA)) { 1 } else { 2 })
        } else if bridge && any(&|name| name.contains(".decoder_layer.")) && part(Part::Vision) {
            Self::Model
        } else if bridge {
            Self::TrainedPart
        } else if let Some(tower) = tower {
            Self::OtherTower(tower)
        } else if any(&|name| name.ends_with("class_embedding") && Part::of(name) == Part::Vision) {
            Self::VisionTower
        } else if any(&|name| language_name(name).is_some()) && !any(&|name| name.contains(".vision_")) {
            Self::LanguageModel
        } else {
            Self::Unknown
        }
    }

    /// The command that makes a whole model of it, when it is a part of one. `path` is what was inspected; `family` and
    /// `language` are what its configuration says.
    pub(crate) fn completing_command(
        self,
        path: &str,
        family: Option<ModelFamily>,
        language: Option<Language>,
    ) -> Option<String> {
        let inject = || format!("otter convert --inject {path} --base-vision CLIP_DIR --out DIR");
        Some(match self {
            Self::OpenFlamingo(_) => {
                format!("otter convert {path} --base-lm LM_DIR --base-vision CLIP_DIR --out DIR")
            }
            Self::TrainedPart => {
                let part = TrainedPart::read(Path::new(path)).ok().flatten();
                let base = part.map_or_else(|| "BASE_DIR".to_owned(), |part| part.base.display().to_string());
                let file = Path::new(path).join(TRAINED_FILE);
                let overlay = if file.exists() { file.display().to_string() } else { path.to_owned() };
                format!("otter convert {base} --overlay {overlay} --out DIR")
            }
            Self::LanguageModel => inject(),
            Self::VisionTower => {
                format!("otter convert --inject LM_DIR --base-vision {path} --out DIR")
            }
            Self::Configuration if family.is_some() => {
                format!("otter init --like {path} --out DIR (random values), or fetch its weights")
            }
            Self::Configuration if language.is_some() => format!("fetch its weights, then {}", inject()),
            Self::Configuration => format!("fetch its weights, then ask again: otter inspect {path}"),
            Self::Model | Self::Adapters | Self::OtherTower(_) | Self::Unknown => return None,
        })
    }

    /// Why no command makes a model of it, where none does.
    pub(crate) fn dead_end(self, family: Option<ModelFamily>, language: Option<Language>) -> Option<String> {
        const MERGE: &str = "no command of otter makes a model of adapters alone; merge them into their model with PEFT \
                             (merge_and_unload) and convert that";
        Some(match self {
            Self::Adapters => MERGE.to_owned(),
            Self::OtherTower(tower) => format!(
                "no command makes an Otter of it: a tower is a CLIP vision transformer with quick_gelu \
                 (openai/clip-vit-large-patch14), and {tower} computes something else"
            ),
            Self::LanguageModel | Self::Configuration
                if language == Some(Language::Other) && family.is_none() =>
            {
                format!(
                    "no command makes an Otter of it: supported language models are {}",
                    Family::names().collect::<Vec<_>>().join(", ")
                )
            }
            Self::Unknown => {
                "no command makes a model of it: its names are those of no Otter, OpenFlamingo, supported \
                              language model or CLIP tower"
                    .to_owned()
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Model => "complete model",
            Self::TrainedPart => "trained part of a model (the frozen part is missing)",
            Self::OpenFlamingo(1) => "OpenFlamingo v1 file (trained part; the frozen part is missing)",
            Self::OpenFlamingo(_) => "OpenFlamingo v2 file (trained part; the frozen part is missing)",
            Self::Adapters => "LoRA adapters without their model",
            Self::LanguageModel => "language model alone",
            Self::VisionTower => "image tower alone",
            Self::OtherTower(tower) => {
                return write!(formatter, "{tower}, an image tower that is not supported");
            }
            Self::Configuration => "configuration without weights",
            Self::Unknown => "weights of an unknown kind",
        })
    }
}
