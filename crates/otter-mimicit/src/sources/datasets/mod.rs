//! One file a source: where its files are, and what each of its items says.

pub(super) mod dense_captions;
pub(super) mod ego4d;
pub(super) mod funqa;
pub(super) mod general_difference;
pub(super) mod llava;
pub(super) mod own;
pub(super) mod scene_navigation;
pub(super) mod spot_the_difference;
pub(super) mod story;
pub(super) mod tv_captions;
