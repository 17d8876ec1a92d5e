//! Every source from tiny made-up inputs to the records and ids that are expected of it.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use image::{Delay, Frame, Rgb, RgbImage, Rgba, RgbaImage};
use otter_data::video::{FrameSampling, VideoOptions};
use otter_data::{DatasetWriter, ImageRules, Record, Result, WrittenSet, open_image};
use otter_mimicit::sources::{
    ImportError, ImportOptions, ImportReport, Imported, Inputs, PictureOptions, Progress, SourceKind, import,
    journal_folder, open_source,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What a writer was given.
#[derive(Debug, Default, Clone, PartialEq)]
struct Collected {
    images: Vec<(String, Vec<u8>)>,
    records: Vec<(String, Record)>,
    contexts: Vec<(String, Vec<String>)>,
    finished: bool,
}

struct Collector(Rc<RefCell<Collected>>);

impl DatasetWriter for Collector {
    fn image(&mut self, id: &str, encoded: &[u8]) -> Result<()> {
        self.0.borrow_mut().images.push((id.to_owned(), encoded.to_vec()));
        Ok(())
    }

    fn record(&mut self, id: &str, record: &Record) -> Result<()> {
        self.0.borrow_mut().records.push((id.to_owned(), record.clone()));
        Ok(())
    }

    fn context(&mut self, id: &str, context: &[String]) -> Result<()> {
        self.0.borrow_mut().contexts.push((id.to_owned(), context.to_vec()));
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<WrittenSet> {
        let mut collected = self.0.borrow_mut();
        collected.finished = true;
        Ok(WrittenSet {
            images: collected.images.len() as u64,
            records: collected.records.len() as u64,
            contexts: collected.contexts.len() as u64,
            bytes: 0,
        })
    }
}

/// A folder with inputs, and how they are imported.
struct Place {
    folder: TempDir,
    options: ImportOptions,
}

impl Place {
    fn new(kind: SourceKind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let inputs = Inputs {
            annotations: Some(folder.path().join("annotations.json")),
            images: Some(folder.path().join("images")),
            videos: Some(folder.path().join("videos")),
            max_frames: 128,
            ..Inputs::default()
        };
        fs::create_dir(folder.path().join("images")).unwrap();
        fs::create_dir(folder.path().join("videos")).unwrap();
        let options = ImportOptions {
            kind,
            inputs,
            jobs: 3,
            strict: false,
            contexts: false,
            pictures: PictureOptions::default(),
            video: VideoOptions::default(),
            restart: false,
        };
        Self { folder, options }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn annotations(&mut self, name: &str, text: &str) -> &mut Self {
        fs::write(self.path(name), text).unwrap();
        self.options.inputs.annotations = Some(self.path(name));
        self
    }

    fn image(&self, name: &str) -> Vec<u8> {
        let path = self.path("images").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        picture(&path)
    }

    fn run(&self) -> std::result::Result<(Collected, Imported), ImportError> {
        self.run_until(usize::MAX)
    }

    /// Stops when this many items are done.
    fn run_until(&self, items: usize) -> std::result::Result<(Collected, Imported), ImportError> {
        let collected = Rc::new(RefCell::new(Collected::default()));
        let stop = AtomicBool::new(false);
        let source = open_source(self.options.kind, &self.options.inputs)?;
        let imported = import(
            source.as_ref(),
            &self.path("out"),
            &self.options,
            &mut || Ok(Box::new(Collector(Rc::clone(&collected)))),
            &mut |progress: Progress| {
                if !progress.writing && progress.done >= items {
                    stop.store(true, Ordering::Relaxed);
                }
            },
            &stop,
        )?;
        let collected = collected.borrow().clone();
        Ok((collected, imported))
    }

    fn finished(&self) -> (Collected, ImportReport) {
        let (collected, imported) = self.run().unwrap();
        let Imported::Finished(report) = imported else { panic!("it was not asked to stop") };
        assert!(collected.finished && !journal_folder(&self.path("out")).exists());
        (collected, *report)
    }
}

/// Writes a small image whose content depends on its name.
fn picture(path: &Path) -> Vec<u8> {
    let shade =
        path.to_string_lossy().bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
    RgbImage::from_fn(6, 4, |x, y| Rgb([shade, x as u8 * 40, y as u8 * 60])).save(path).unwrap();
    fs::read(path).unwrap()
}

/// A GIF of flat frames, half a second each.
fn gif(path: &Path, levels: &[u8]) {
    let mut encoder = image::codecs::gif::GifEncoder::new(fs::File::create(path).unwrap());
    for &level in levels {
        let image = RgbaImage::from_pixel(8, 6, Rgba([level, level, level, 255]));
        encoder.encode_frame(Frame::from_parts(image, 0, 0, Delay::from_numer_denom_ms(500, 1))).unwrap();
    }
}

fn records(collected: &Collected) -> Value {
    collected
        .records
        .iter()
        .map(|(id, record)| (id.clone(), json!(record)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn image_ids(collected: &Collected) -> Vec<&str> {
    collected.images.iter().map(|(id, _)| id.as_str()).collect()
}

fn skipped(report: &ImportReport) -> Vec<(&str, u64, &str)> {
    report.skipped.iter().map(|(name, skip)| (*name, skip.count, skip.of)).collect()
}

#[test]
fn llava_conversations() {
    let mut place = Place::new(SourceKind::Llava);
    place.annotations(
        "conversation_58k.json",
        r#"[
 {"id": "000000000009", "image": "000000000009.jpg", "conversations": [
   {"from": "human", "value": "<image>\nHow many cups?"}, {"from": "gpt", "value": "Two."},
   {"from": "human", "value": "Which is red?"}, {"from": "gpt", "value": "The left one."}]},
 {"id": "25", "image": "coco/train2017/000000000025.jpg", "conversations": [
   {"from": "human", "value": "What?\n<image>"}, {"from": "gpt", "value": "A cat."}]},
 {"id": "26", "image": "000000000026.jpg", "conversations": [
   {"from": "human", "value": "Gone?"}, {"from": "gpt", "value": "Yes."}]},
 {"id": "text", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
 {"id": "odd", "image": "000000000009.jpg", "conversations": [{"from": "gpt", "value": "b"}]},
 {"id": "again", "image": "000000000009.jpg", "conversations": [
   {"from": "human", "value": "Again?"}, {"from": "gpt", "value": "Yes."}]}
]"#,
    );
    let first = place.image("000000000009.jpg");
    place.image("COCO_train2014_000000000025.jpg");
    place.options.contexts = true;
    let (collected, report) = place.finished();
    let expected = json!({
        "LACONV_INS_000001": {"instruction": "How many cups?", "answer": "Two.", "image_ids": ["LA_IMG_000000000009"], "rel_ins_ids": ["LACONV_INS_000002"]},
        "LACONV_INS_000002": {"instruction": "Which is red?", "answer": "The left one.", "image_ids": ["LA_IMG_000000000009"], "rel_ins_ids": ["LACONV_INS_000001"]},
        "LACONV_INS_000003": {"instruction": "What?", "answer": "A cat.", "image_ids": ["LA_IMG_000000000025"], "rel_ins_ids": []},
        "LACONV_INS_000004": {"instruction": "Again?", "answer": "Yes.", "image_ids": ["LA_IMG_000000000009"], "rel_ins_ids": []},
    });
    assert_eq!(records(&collected), expected);
    assert_eq!(image_ids(&collected), ["LA_IMG_000000000009", "LA_IMG_000000000025"]);
    assert_eq!(collected.images[0].1, first, "the bytes of the file");
    assert_eq!(collected.contexts[1], ("LACONV_INS_000002".into(), vec!["LACONV_INS_000001".into()]));
    assert_eq!(collected.contexts.len(), 4);
    let expected = [("bad_annotation", 1, "items"), ("missing_image", 1, "items"), ("no_image", 1, "items")];
    assert_eq!(skipped(&report), expected);
    assert_eq!((report.items, report.used, report.shared_images), (6, 3, 1));
    let example = &report.skipped["missing_image"].examples[0];
    assert!(example.contains("line 7") && example.contains("000000000026"), "{example}");
}

#[test]
fn spot_the_difference() {
    let mut place = Place::new(SourceKind::Sd);
    place.annotations(
        "train.json",
        r#"[{"img_id": "42", "sentences": [" a car left", "a man came "]}, {"img_id": 7, "sentences": ["x"]},
            {"img_id": "8", "sentences": []}, {"img_id": "../8", "sentences": ["x"]}, {"id": 1}]"#,
    );
    for name in ["42.png", "42_2.jpeg", "7.png", "8.png", "8_2.png"] {
        place.image(name);
    }
    let (collected, report) = place.finished();
    let expected = json!({"SD_INS_000001": {
        "instruction": "What is different between the first and the second image?", "answer": "a car left a man came",
        "image_ids": ["SD_IMG_00042_1", "SD_IMG_00042_2"], "rel_ins_ids": []}});
    assert_eq!(records(&collected), expected);
    let expected = [
        ("bad_annotation", 1, "items"),
        ("missing_image", 1, "items"),
        ("no_pairs", 1, "items"),
        ("unsafe_path", 1, "items"),
    ];
    assert_eq!(skipped(&report), expected);
    // The original's form: squashed PNG.
    place.options.pictures.image_size = Some(224);
    let (collected, _) = place.finished();
    let image = open_image(&collected.images[1].1, ImageRules::REFERENCE, "x").unwrap();
    assert_eq!((image.width(), image.height()), (224, 224));
    assert!(collected.images[1].1.starts_with(b"\x89PNG"));
}

#[test]
fn replies_of_a_chat_model_become_siblings() {
    let mut place = Place::new(SourceKind::Sd);
    place.annotations("train.json", r#"[{"img_id": "1", "sentences": ["x"]}, {"img_id": "2", "sentences": ["x"]}, {"img_id": "3", "sentences": ["x"]}]"#);
    fs::write(
        place.path("replies.json"),
        r#"[{"id": "1", "results": "Question: A?\nAnswer: B.\n\nQuestion: C?\nAnswer: D."}, {"id": "2", "results": "no"}]"#,
    )
    .unwrap();
    place.options.inputs.pairs = Some(place.path("replies.json"));
    place.image("1.jpg");
    place.image("1_2.jpg");
    let (collected, report) = place.finished();
    assert_eq!(collected.records.len(), 2);
    assert_eq!(collected.records[0].1.rel_ins_ids, ["SD_INS_000002"]);
    assert_eq!(skipped(&report), [("bad_reply", 1, "items"), ("no_pairs", 1, "items")]);
}

#[test]
fn general_differences_in_both_forms() {
    let mut place = Place::new(SourceKind::Cgd);
    place.annotations(
        "a.json",
        r#"[{"images": ["000000000001.jpg", "000000000002.jpg"], "sentences": ["one cup more"]}]"#,
    );
    place.image("000000000001.jpg");
    place.image("000000000002.jpg");
    let (collected, _) = place.finished();
    assert_eq!(collected.records[0].0, "CGD_INS_000001");
    assert_eq!(collected.records[0].1.image_ids, ["CGD_IMG_000000000001", "CGD_IMG_000000000002"]);
    place.annotations("b.json", r#"{"CLEVR_default_000007.png": ["the ball moved", "it is left now"]}"#);
    place.image("images/CLEVR_default_000007.png");
    place.image("sc_images/CLEVR_semantic_000007.png");
    let (collected, _) = place.finished();
    assert_eq!(collected.records[0].1.answer, "the ball moved it is left now");
    assert_eq!(image_ids(&collected), ["CGD_IMG_CLEVR_default_000007", "CGD_IMG_CLEVR_semantic_000007"]);
}

#[test]
fn stories_follow_their_order_and_lost_photographs_are_expired() {
    let mut place = Place::new(SourceKind::Vst);
    let photograph = |story: u32, photo: &str, order: &str, text: &str| json!([{"story_id": story, "album_id": "al", "photo_flickr_id": photo, "worker_arranged_photo_order": order, "original_text": text}]);
    let file = json!({"images": [], "albums": [], "annotations": [
        photograph(1, "200", "1", "Then we left."), photograph(1, "100", "0", "We came."),
        photograph(2, "300", "0", "Lost."),
    ]});
    place.annotations("train.story-in-sequence.json", &file.to_string());
    place.image("100.jpg");
    place.image("200.png");
    let (collected, report) = place.finished();
    assert_eq!(collected.records.len(), 1);
    assert_eq!(collected.records[0].1.answer, "We came. Then we left.");
    assert_eq!(collected.records[0].1.image_ids, ["VST_IMG_100", "VST_IMG_200"]);
    assert_eq!(skipped(&report), [("expired", 1, "items")]);
}

#[test]
fn tv_clips_never_give_more_than_sixteen_frames() {
    let mut place = Place::new(SourceKind::Tvc);
    let line = |clip: &str, said: &[&str]| {
        let said: Vec<Value> = said.iter().map(|said| json!({"desc": said})).collect();
        json!({"vid_name": clip, "descs": said}).to_string()
    };
    let lines = [
        line("s01e01_clip_00", &["He sits.", "She stands."]),
        line("house_s01_clip_01", &["x"]),
        line("none", &["x"]),
    ];
    place.annotations("tvc.jsonl", &lines.join("\n"));
    for frame in 1..=31 {
        place.image(&format!("house_frames/s01e01_clip_00/{frame}.jpg"));
    }
    for frame in 1..=32 {
        place.image(&format!("house_frames/house_s01_clip_01/{frame:05}.jpg"));
    }
    let (collected, report) = place.finished();
    let ids = &collected.records[0].1.image_ids;
    // The original gives 31 frames here: 31 // 16 = 1.
    assert_eq!(
        (ids.len(), ids[0].as_str(), ids[15].as_str()),
        (16, "TVC_IMG_house_s01e01_clip_00_1", "TVC_IMG_house_s01e01_clip_00_31")
    );
    assert_eq!(collected.records[0].1.rel_ins_ids, ["TVC_INS_000002"]);
    // A multiple of 16 gives the original's frames: every second from the second on.
    let ids = &collected.records[2].1.image_ids;
    let expected: Vec<String> = (1..=16).map(|n| format!("TVC_IMG_house_s01_clip_01_{:05}", n * 2)).collect();
    assert_eq!(*ids, expected);
    assert_eq!(skipped(&report), [("missing_video", 1, "items")]);
}

#[test]
fn dense_captions_at_one_frame_a_second() {
    let mut place = Place::new(SourceKind::Dc);
    place.annotations(
        "train.json",
        r#"{"v_abc": {"duration": 3.0, "timestamps": [[1.5, 3.0], [0.2, 1.4]], "sentences": ["She jumps. ", " A girl runs."]},
            "v_seq": {"duration": 2, "timestamps": [[0, 2]], "sentences": ["Waves."]},
            "v_bad": {"duration": 2, "timestamps": [[0, 2]], "sentences": []},
            "v_cut": {"duration": 2, "timestamps": [[0, 2]], "sentences": ["x"]},
            "v_gone": {"duration": 2, "timestamps": [[0, 2]], "sentences": ["x"]}}"#,
    );
    gif(&place.path("videos/v_abc.gif"), &[10, 20, 30, 40, 50, 60]);
    fs::create_dir(place.path("videos/v_seq")).unwrap();
    let frames: Vec<Vec<u8>> =
        (0..3).map(|n| picture(&place.path(&format!("videos/v_seq/{n}.jpg")))).collect();
    fs::write(place.path("videos/v_cut.gif"), b"GIF89a").unwrap();
    let (collected, report) = place.finished();
    let frames_of =
        |video: &str, count: usize| (0..count).map(|n| format!("DC_IMG_{video}_{n:04}")).collect::<Vec<_>>();
    let abc = frames_of("v_abc", 3);
    let expected = json!({
        "DC_INS_00001": {"instruction": "What happens in this video, in order?", "answer": "A girl runs. She jumps.", "image_ids": abc, "rel_ins_ids": ["DC_INS_00002", "DC_INS_00003"]},
        "DC_INS_00002": {"instruction": "What happens from second 0 to second 1?", "answer": "A girl runs.", "image_ids": abc, "rel_ins_ids": ["DC_INS_00001", "DC_INS_00003"]},
        "DC_INS_00003": {"instruction": "What happens from second 2 to second 3?", "answer": "She jumps.", "image_ids": abc, "rel_ins_ids": ["DC_INS_00001", "DC_INS_00002"]},
        "DC_INS_00004": {"instruction": "What happens in this video, in order?", "answer": "Waves.", "image_ids": frames_of("v_seq", 3), "rel_ins_ids": []},
    });
    assert_eq!(records(&collected), expected);
    assert_eq!(
        skipped(&report),
        [("bad_annotation", 1, "items"), ("broken_video", 1, "items"), ("missing_video", 1, "items")]
    );
    // Frames of the GIF are JPEG, those of the folder as they are.
    let shades: Vec<u8> = collected.images[..3]
        .iter()
        .map(|(_, bytes)| {
            assert!(bytes.starts_with(&[0xff, 0xd8]));
            open_image(bytes, ImageRules::REFERENCE, "x").unwrap().pixels()[0]
        })
        .collect();
    assert!(
        [10_u8, 30, 50].iter().zip(&shades).all(|(level, shade)| level.abs_diff(*shade) < 3),
        "{shades:?}"
    );
    assert_eq!(collected.images[3..].iter().map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>(), frames);
    // Below one frame a second the original divided by zero.
    place.options.video.sampling = FrameSampling::Fps(0.5);
    let (collected, _) = place.finished();
    assert_eq!(collected.records[0].1.image_ids, ["DC_IMG_v_abc_0000", "DC_IMG_v_abc_0001"]);
    place.options.video.sampling = FrameSampling::Fps(1.0);
    place.options.video.max_frames = 2;
    let (collected, report) = place.finished();
    assert_eq!(collected.records[0].1.image_ids.len(), 2);
    assert_eq!(report.thinned, 2);
}

#[test]
fn clips_of_a_first_person_video_share_their_frames() {
    let mut place = Place::new(SourceKind::E4d);
    place.annotations(
        "narrations.json",
        r##"{"vid": {"clips": [
            {"narrations": [{"time": 2.4, "text": "#C C puts it down"}, {"time": 0.4, "text": "#C C picks up a cup", "object_description": ["cup"]}]},
            {"narrations": [{"time": 3.0, "text": "#O man X waves"}]}, {"narrations": []}]}, "bad": {"clips": 3}}"##,
    );
    fs::create_dir(place.path("videos/vid")).unwrap();
    for second in 0..10 {
        picture(&place.path(&format!("videos/vid/{second}.jpg")));
    }
    let (collected, report) = place.finished();
    let frames =
        |seconds: std::ops::Range<u32>| seconds.map(|n| format!("E4D_IMG_vid_{n:08}")).collect::<Vec<_>>();
    let expected = json!({
        "E4D_INS_000001": {"instruction": "What happens here, step by step?", "answer": "The camera wearer picks up a cup The camera wearer puts it down", "image_ids": frames(0..4), "rel_ins_ids": []},
        "E4D_INS_000002": {"instruction": "What happens here, step by step?", "answer": "man X waves", "image_ids": frames(3..5), "rel_ins_ids": []},
    });
    assert_eq!(records(&collected), expected);
    assert_eq!((collected.images.len(), report.shared_images), (5, 1));
    assert_eq!(skipped(&report), [("bad_annotation", 1, "items"), ("no_pairs", 1, "items")]);
}

#[test]
fn scenes_and_funny_videos() {
    let mut place = Place::new(SourceKind::Sn);
    place.annotations(
        "scenes.json",
        r#"{"scene0000_00": {"description": [["k", "A bed."], [1, "A door on the left."]]}}"#,
    );
    for number in [0, 100, 20] {
        place.image(&format!("scene0000_00/color/{number}.jpg"));
    }
    let (collected, _) = place.finished();
    assert_eq!(collected.records[0].1.answer, "A bed. A door on the left.");
    assert_eq!(
        image_ids(&collected),
        ["SN_IMG_scene0000_00_color_0", "SN_IMG_scene0000_00_color_20", "SN_IMG_scene0000_00_color_100"]
    );

    let mut place = Place::new(SourceKind::Funqa);
    place.annotations(
        "funqa.json",
        r#"[{"instruction": "Why is it funny?", "visual_input": "H_1.mp4", "output": "He slips.", "task": "H3"},
            {"instruction": "Score?", "visual_input": "C_1.mp4", "output": 12, "task": "C5"},
            {"instruction": "Title?", "visual_input": "H_1.mp4", "output": "Ice.", "task": "H4"}]"#,
    );
    gif(&place.path("videos/H_1.mp4"), &[1, 2]);
    gif(&place.path("videos/C_1.mp4"), &[1, 2]);
    let (collected, _) = place.finished();
    let said: Vec<(&str, &str)> =
        collected.records.iter().map(|(id, record)| (id.as_str(), record.answer.as_str())).collect();
    assert_eq!(
        said,
        [("FunQA_INS_000001", "He slips."), ("FunQA_INS_000002", "Ice."), ("FunQA_INS_000003", "12")]
    );
    assert_eq!(image_ids(&collected), ["FunQA_IMG_H_1_0000", "FunQA_IMG_C_1_0000"]);
}

#[test]
fn a_table_of_ones_own() {
    let csv = "id,image,instruction,answer,context,language\n\
               first,a.png,What?,\"A cup, red.\",,en\n\
               ,a.png,\"Which \"\"cup\"\"?\",The left.,first,en\n\
               ,sub/b.jpg;a.png,Compare.,\"Two\nlines.\",first; zero,en\n\
               ,,Hello?,Text only.,,en\n\
               first,a.png,Twice?,Yes.,,en\n\
               ,none.png,What?,Nothing.,,en\n\
               ,a.png,,No question.,,en\n\
               ,a.png,too few\n\
               ,/etc/passwd,What?,No.,,en\n";
    let mut place = Place::new(SourceKind::Own);
    place.options.inputs.name = Some("MY".into());
    place.image("a.png");
    place.image("sub/b.jpg");
    place.annotations("own.csv", csv);
    let (collected, report) = place.finished();
    let expected = json!({
        "first": {"instruction": "What?", "answer": "A cup, red.", "image_ids": ["MY_IMG_a"], "rel_ins_ids": ["MY_INS_000002"], "language": "en", "example_only": true},
        "MY_INS_000002": {"instruction": "Which \"cup\"?", "answer": "The left.", "image_ids": ["MY_IMG_a"], "rel_ins_ids": ["first"], "language": "en"},
        "MY_INS_000003": {"instruction": "Compare.", "answer": "Two\nlines.", "image_ids": ["MY_IMG_sub_b", "MY_IMG_a"], "rel_ins_ids": [], "language": "en"},
        "MY_INS_000004": {"instruction": "Hello?", "answer": "Text only.", "image_ids": [], "rel_ins_ids": [], "language": "en", "example_only": true},
    });
    assert_eq!(records(&collected), expected);
    let contexts: Vec<(&str, String)> =
        collected.contexts.iter().map(|(id, ids)| (id.as_str(), ids.join(" "))).collect();
    // Where one row has a context, the others are examples and no samples.
    assert_eq!(contexts, [("MY_INS_000002", "first".to_owned()), ("MY_INS_000003", "first zero".to_owned())]);
    assert_eq!((report.languages["en"], report.example_only), (4, 2));
    for part in [
        "1 of 2 samples cannot be built: their contexts name 1 ids that no pair has, e.g. zero in the context of MY_INS_000003",
        "1 pairs have no context",
        "1 pairs have no image",
    ] {
        assert!(report.warnings.iter().any(|warning| warning.contains(part)), "{:?}", report.warnings);
    }
    let expected = [
        ("bad_annotation", 1, "items"),
        ("duplicate_id", 1, "pairs"),
        ("missing_image", 1, "items"),
        ("no_pairs", 1, "items"),
        ("unsafe_path", 1, "items"),
    ];
    assert_eq!(skipped(&report), expected);
    let line = &report.skipped["bad_annotation"].examples[0];
    assert!(line.contains("own.csv line 10: 3 fields") && line.contains("6 columns"), "{line}");
    assert!(report.skipped["missing_image"].examples[0].contains("own.csv line 8"));

    // The same as one JSON object a line.
    let lines = [
        json!({"id": "first", "image": "a.png", "instruction": "What?", "answer": "A cup, red.", "language": "en"}),
        json!({"image": "a.png", "instruction": "Which \"cup\"?", "answer": "The left.", "context": "first", "language": "en"}),
        json!({"images": ["sub/b.jpg", "a.png"], "instruction": "Compare.", "answer": "Two\nlines.", "context": ["first", "zero"], "language": "en"}),
        json!({"instruction": "Hello?", "answer": "Text only.", "context": null, "language": "en"}),
        json!({"instruction": "Hello?", "anwser": "Text only."}),
    ];
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    place.annotations("own.jsonl", &text.join("\n\n"));
    let (second, report) = place.finished();
    assert_eq!(
        (&second.records, &second.images, &second.contexts),
        (&collected.records, &collected.images, &collected.contexts)
    );
    let line = &report.skipped["bad_annotation"].examples[0];
    assert!(line.contains("line 9") && line.contains("anwser") && line.contains("answer"), "{line}");
}

#[test]
fn rows_without_a_context_are_samples_where_no_row_has_one_or_when_asked_for() {
    let mut place = Place::new(SourceKind::Own);
    place.image("a.png");
    // A column that is there but empty says nothing.
    place.annotations("own.csv", "image,instruction,answer,id,context\na.png,q,a,x,\na.png,r,b,y,\n");
    let (collected, report) = place.finished();
    assert_eq!((collected.contexts.len(), report.example_only, collected.records.len()), (0, 0, 2));
    place.annotations("own.csv", "image,instruction,answer,id,context\na.png,q,a,x,\na.png,r,b,y,x\n");
    assert_eq!(place.finished().1.example_only, 1);
    place.options.inputs.all_rows = true;
    let (collected, report) = place.finished();
    let all = [("x".to_owned(), vec![]), ("y".to_owned(), vec!["x".to_owned()])];
    assert_eq!((report.example_only, &collected.contexts[..]), (0, &all[..]));
    // The only row with a context is left out: nothing is a sample.
    place.options.inputs.all_rows = false;
    place.annotations("own.csv", "image,instruction,answer,id,context\na.png,q,a,x,\ngone.png,r,b,y,x\n");
    let message = place.run().unwrap_err().to_string();
    assert!(
        message.contains("no pair of the 1 usable items is a sample") && message.contains("gone.png"),
        "{message}"
    );
    // Its context names nobody: it cannot be built. A later row is somebody.
    place.annotations(
        "own.csv",
        "image,instruction,answer,id,context\na.png,q,a,x,\na.png,r,b,y,nobody nobody z\n",
    );
    let message = place.run().unwrap_err().to_string();
    assert!(
        message.contains("is a sample") && message.contains("1 of 1 samples cannot be built"),
        "{message}"
    );
    place.annotations("own.csv", "image,instruction,answer,id,context\na.png,r,b,y,x\na.png,q,a,x,\n");
    let (collected, report) = place.finished();
    assert_eq!((collected.contexts.len(), report.warnings.len()), (1, 0), "{:?}", report.warnings);
}

#[test]
fn columns_that_nobody_reads_are_named() {
    let mut place = Place::new(SourceKind::Own);
    place.image("a.png");
    // As pandas writes it: the index has no name.
    for (name, text) in [
        ("own.csv", ",image,instruction,answer,split,Source\n0,a.png,q,a,train,web\n"),
        ("own.jsonl", r#"{"image":"a.png","instruction":"q","answer":"a","split":1,"source":[{"a":2}]}"#),
    ] {
        place.annotations(name, text);
        let (collected, report) = place.finished();
        assert_eq!(collected.records[0].1.image_ids, ["OWN_IMG_a"]);
        let warning = &report.warnings[0];
        assert!(warning.starts_with("columns not used: ") && warning.contains("source, split"), "{warning}");
        assert_eq!(warning.contains("number 1 without a name"), name == "own.csv", "{warning}");
    }
}

#[test]
fn nothing_used_is_an_error_that_says_why() {
    let mut place = Place::new(SourceKind::Own);
    place.image("apple.PNG");
    place.annotations("own.csv", "image,instruction,answer\nAPPLE.png,q,a\npear.png,q,a\n");
    let message = place.run().unwrap_err().to_string();
    for part in ["none of the 2 items", "2 items [missing_image]", "own.csv line 2", "there is apple.PNG"] {
        assert!(message.contains(part), "{message}");
    }
    // Nothing of it is kept: with the file there, the same import works.
    assert!(!journal_folder(&place.path("out")).exists());
    place.image("pear.png");
    assert_eq!(place.finished().0.records.len(), 1);
    place.annotations("own.csv", "image,instruction,answer\n");
    assert!(place.run().unwrap_err().to_string().contains("no item"));
}

#[test]
fn texts_alone_are_a_set_of_texts() {
    let mut place = Place::new(SourceKind::Own);
    place.annotations("own.csv", "instruction,answer\nq,a\n");
    let source = open_source(SourceKind::Own, &place.options.inputs).unwrap();
    assert_eq!(source.group(), otter_data::Group::TextOnly);
    assert_eq!(place.finished().1.warnings, [""; 0]);
}

#[test]
fn names_of_files_are_found_in_the_other_normal_form() {
    let (nfc, nfd) = ("caf\u{e9}", "cafe\u{301}");
    let mut place = Place::new(SourceKind::Own);
    place.image(&format!("{nfd}/{nfd}.png"));
    place.annotations("own.csv", &format!("image,instruction,answer\n{nfc}/{nfc}.png,q,a\n"));
    let (collected, report) = place.finished();
    assert_eq!(
        (report.used, collected.records[0].1.image_ids[0].as_str()),
        (1, &*format!("OWN_IMG_{nfc}_{nfc}"))
    );
}

#[test]
fn conversations_about_several_images() {
    let mut place = Place::new(SourceKind::Llava);
    for name in ["a/1.png", "b/1.png", "x.left.png", "x.right.png", "000000000007.jpg"] {
        place.image(name);
    }
    let turns = |questions: &[&str]| -> Value {
        let turn = |question: &&str| {
            [json!({"from": "human", "value": question}), json!({"from": "gpt", "value": "Yes."})]
        };
        questions.iter().flat_map(turn).collect()
    };
    let entries = json!([
        {"id": "two", "image": ["a/1.png", "b/1.png"], "conversations": turns(&["<image>\nWhat?", "And <image> beside it?"])},
        {"sample_id": 5, "images": ["x.left.png", "x.right.png"], "conversations": turns(&["<image><image>\nWhat differs?"])},
        {"id": "one", "image": ["000000000007.jpg"], "conversations": turns(&["Where?"])},
        {"id": "many", "image": "000000000007.jpg", "conversations": turns(&["<image> <image> Where?"])},
        {"id": "few", "image": ["a/1.png", "b/1.png"], "conversations": turns(&["<image>\nWhere?"])},
        {"id": "film", "video": "a.mp4", "conversations": turns(&["<video>\nWhere?"])},
        {"id": "nested", "image": [["a/1.png"]], "conversations": turns(&["<image>"])},
        {"id": "text", "image": null, "conversations": turns(&["Where?"])},
    ]);
    place.annotations("conversation.json", &entries.to_string());
    let (collected, report) = place.finished();
    let shown: Vec<(&str, Vec<&str>)> = collected
        .records
        .iter()
        .map(|(_, record)| {
            (record.instruction.as_str(), record.image_ids.iter().map(String::as_str).collect())
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("What?", vec!["LA_IMG_a_1"]),
            ("And image 2 beside it?", vec!["LA_IMG_a_1", "LA_IMG_b_1"]),
            ("What differs?", vec!["LA_IMG_x.left", "LA_IMG_x.right"]),
            ("Where?", vec!["LA_IMG_000000000007"]),
        ]
    );
    assert_eq!(collected.images.len(), 5);
    assert_eq!(skipped(&report), [("bad_annotation", 4, "items"), ("no_image", 1, "items")]);
    let said = report.skipped["bad_annotation"].examples.join("\n");
    for part in [
        "(id many): 2 <image> in the questions, but `image` lists 1 files",
        "(id few): 1 <image> in the questions, but `image` lists 2 files",
        "(id film): the key `video`",
        "(id nested): `image[0]` is a list, a string is expected",
    ] {
        assert!(said.contains(part), "no '{part}' in {said}");
    }
    // The texts among them are a set of their own.
    place.options.inputs.text_only = true;
    let (collected, report) = place.finished();
    assert_eq!((collected.records.len(), collected.records[0].1.image_ids.len()), (1, 0));
    assert_eq!(report.skipped["other_kind"].count, 5);
}

#[test]
fn wrong_types_are_named_with_file_id_and_key() {
    let own = |line: &str| (SourceKind::Own, "a.jsonl", line.to_owned());
    for ((kind, name, text), parts) in [
        (
            own(r#"{"instruction":"q","answer":3}"#),
            &["a.jsonl line 1", "`answer` is the integer `3`, a string"][..],
        ),
        (own(r#"{"instruction":null,"answer":"a"}"#), &["`instruction` is null"]),
        (own(r#"{"instruction":"q","answer":"a","image":[1]}"#), &["`image[0]` is the integer `1`"]),
        (own(r#"{"instruction":"q","answer":"a","answer":"b"}"#), &["`answer` is there twice"]),
        (own(r#"["q","a"]"#), &["a list was found, an object"]),
        (own(r#"{"instruction":"q","answer":NaN}"#), &["no valid JSON", "column"]),
        (
            (SourceKind::Sd, "a.json", r#"[{"img_id": 4, "sentences": "x"}]"#.to_owned()),
            &["a.json line 1 (img_id 4)", "`sentences` is the string \"x\", a list"],
        ),
        (
            (SourceKind::Cgd, "a.json", r#"[{"id": "p", "images": ["1.png"], "sentences": []}]"#.to_owned()),
            &["(id p)", "`images`"],
        ),
        (
            (SourceKind::Vst, "a.json", r#"{"annotations": [[{"story_id": 1}]]}"#.to_owned()),
            &["a.json", "the key `annotations[0][0].album_id` is missing"],
        ),
        (
            (SourceKind::Tvc, "a.json", r#"{"vid_name": "c", "descs": [{"text": "x"}]}"#.to_owned()),
            &["(vid_name c)", "the key `descs[0].desc` is missing"],
        ),
        (
            (SourceKind::Dc, "a.json", r#"{"v": {"timestamps": [["0", 1]], "sentences": ["x"]}}"#.to_owned()),
            &["(v)", "`timestamps[0][0]` is the string \"0\", a number"],
        ),
        (
            (SourceKind::E4d, "a.json", r#"{"v": {"clips": [{"narrations": [{"text": "x"}]}]}}"#.to_owned()),
            &["(v)", "the key `clips[0].narrations[0].time` is missing"],
        ),
        (
            (SourceKind::Sn, "a.json", r#"{"s": {"description": ["x"]}}"#.to_owned()),
            &["(s)", "`description[0]` is the string \"x\""],
        ),
        (
            (
                SourceKind::Funqa,
                "a.json",
                r#"[{"ID": "f", "visual_input": "f.mp4", "output": "x"}]"#.to_owned(),
            ),
            &["(ID f)", "the key `instruction` is missing"],
        ),
    ] {
        let mut place = Place::new(kind);
        fs::create_dir(place.path("images/show_frames")).unwrap();
        place.annotations(name, &text);
        let message = place.run().unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "no '{part}' in {message}");
        }
        assert!(!message.contains("invalid type") && !message.contains("untagged"), "{message}");
    }
}

#[test]
fn heads_of_tables_are_checked() {
    for (name, text, part) in [
        ("a.csv", "question,answer\n", "no column `instruction`"),
        ("a.csv", "instruction,answer,Answer\n", "there twice"),
        ("a.csv", "", "empty"),
        ("a.xlsx", "x", "expected .csv, .tsv or .jsonl"),
        ("a.json", "[{}]", "one JSON object a line"),
    ] {
        let mut place = Place::new(SourceKind::Own);
        place.annotations(name, text);
        let message = place.run().unwrap_err().to_string();
        assert!(message.contains(part) && message.contains(name), "{message}");
    }
}

#[test]
fn files_of_one_id_are_a_conflict() {
    let mut place = Place::new(SourceKind::Own);
    place.image("a.png");
    place.image("a.jpg");
    place.annotations("own.csv", "image,instruction,answer\na.png,q,a\na.jpg,q,a\n");
    let (collected, report) = place.finished();
    assert_eq!(collected.records.len(), 1);
    assert_eq!(skipped(&report), [("id_conflict", 1, "items")]);
}

#[test]
fn strict_stops_at_the_first() {
    let mut place = Place::new(SourceKind::Own);
    place.image("a.png");
    place.annotations("own.csv", "image,instruction,answer\na.png,q,a\nb.png,q,a\n");
    place.options.strict = true;
    let message = place.run().unwrap_err().to_string();
    assert!(message.contains("line 3") && message.contains("[missing_image]"), "{message}");
    // Repaired, it goes on.
    place.image("b.png");
    assert_eq!(place.finished().0.records.len(), 2);
    place.annotations("own.csv", "id,image,instruction,answer\nx,a.png,q,a\nx,b.png,q,a\n");
    assert!(place.run().unwrap_err().to_string().contains("[duplicate_id]"));
}

#[test]
fn an_interrupted_import_gives_what_an_uninterrupted_one_does() {
    let mut place = Place::new(SourceKind::Own);
    let mut csv = String::from("image,instruction,answer\n");
    for number in 0..40 {
        if number % 7 != 3 {
            place.image(&format!("{number}.png"));
        }
        csv.push_str(&format!("{number}.png,q{number},a{number}\n{number}.png,r,\n"));
    }
    place.annotations("own.csv", &csv);
    place.options.pictures.image_size = Some(10);
    place.options.inputs.name = Some("R".into());
    let (whole, report) = place.finished();
    assert_eq!(whole.records.len(), 34);
    for first in [1, 2, 17, 39, 40] {
        let (partial, imported) = place.run_until(first).unwrap();
        let Imported::Interrupted { done, total } = imported else { panic!("it was asked to stop") };
        assert!(!partial.finished && done == first && total == 40);
        // Killed while it wrote: a torn entry at the end.
        let items = journal_folder(&place.path("out")).join("items.bin");
        let mut bytes = fs::read(&items).unwrap();
        bytes.extend_from_slice(&bytes.clone()[..30]);
        fs::write(&items, bytes).unwrap();
        let (again, second) = place.finished();
        assert_eq!(again, whole);
        assert_eq!(second, report);
    }
    // Other options do not continue it, unless asked to begin anew.
    place.run_until(5).unwrap();
    place.options.pictures.image_size = Some(12);
    let message = place.run().unwrap_err().to_string();
    assert!(message.contains("pictures.image_size was 10, now 12"), "{message}");
    place.options.restart = true;
    assert_eq!(place.finished().0.records.len(), 34);
}

#[test]
fn a_missing_ffmpeg_ends_the_import_rather_than_every_item() {
    let mut place = Place::new(SourceKind::Dc);
    place.annotations("train.json", r#"{"v": {"timestamps": [[0, 1]], "sentences": ["x"]}}"#);
    fs::write(place.path("videos/v.mp4"), "no video").unwrap();
    place.options.video.ffmpeg = Some("/no/such/ffmpeg".into());
    let message = place.run().unwrap_err().to_string();
    assert!(message.contains("install") && message.contains("/no/such/ffmpeg"), "{message}");
}
